//! Plain loops compiled for AVX2: the same arithmetic, and so the same bits, in registers twice as wide.

/// Runs `work`, compiled for AVX2 where the processor has it.
///
/// `work` must hold its loops itself or in functions that are inlined into it: others stay as they are compiled.
#[inline(always)]
pub(super) fn with_avx2<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor was just found to have AVX2, which is all that the function asks for.
        return unsafe { compiled_for_avx2(work) };
    }
    work()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn compiled_for_avx2<R>(work: impl FnOnce() -> R) -> R {
    work()
}
