//! Philox4x32-10 (Salmon et al., "Parallel Random Numbers: As Easy as 1, 2, 3", 2011).

/// Four random words of a counter and a key.
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    const ROUNDS: u32 = 10;
    let mut words = counter;
    for round in 0..ROUNDS {
        // The key moves by the golden ratio and by the square root of 3, less 1.
        let keys = [
            key[0].wrapping_add(round.wrapping_mul(0x9e37_79b9)),
            key[1].wrapping_add(round.wrapping_mul(0xbb67_ae85)),
        ];
        let product = |word: u32, factor: u64| u64::from(word) * factor;
        let (a, b) = (
            product(words[0], 0xd251_1f53),
            product(words[2], 0xcd9e_8d57),
        );
        words = [
            (b >> 32) as u32 ^ words[1] ^ keys[0],
            b as u32,
            (a >> 32) as u32 ^ words[3] ^ keys[1],
            a as u32,
        ];
    }
    words
}
