//! Which PTX suits an architecture.

use super::fatbin::Entry;
use super::{ImageError, MAX_TEXT_BYTES, decompress, text};
use crate::sim::Arch;

/// A PTX target: capability times ten and the letter behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Target {
    capability: u32,
    suffix: Option<char>,
}

/// Name of an architecture as PTX writes it.
pub fn target_name(arch: Arch) -> &'static str {
    match arch {
        Arch::Sm80 => "sm_80",
        Arch::Sm90a => "sm_90a",
    }
}

/// The best of a fatbin's entries. Of entries that suit equally well the first wins.
pub fn best(entries: &[Entry<'_>], arch: Arch) -> Result<String, ImageError> {
    let (limit, _) = capability(arch);
    let mut candidates: Vec<&Entry<'_>> = entries
        .iter()
        .filter(|e| e.is_ptx && e.capability <= limit)
        .collect();
    candidates.sort_by_key(|entry| std::cmp::Reverse(entry.capability));
    let mut best: Option<(Target, String)> = None;
    for entry in candidates {
        if best
            .as_ref()
            .is_some_and(|(target, _)| target.capability > entry.capability)
        {
            break;
        }
        let text = text(&decompress::decompress(entry)?);
        let Some(target) = target(&text) else {
            return Err(ImageError::Malformed(
                "PTX without `.target` in a fatbin".into(),
            ));
        };
        let better = best
            .as_ref()
            .is_none_or(|(held, _)| held.suffix.is_none() && target.suffix.is_some());
        if suits(target, arch) && better {
            best = Some((target, text));
        }
    }
    match best {
        Some((_, text)) => Ok(text),
        None => Err(ImageError::NoPtx {
            arch,
            found: contents(entries),
        }),
    }
}

/// The text itself, if it suits. One without `.target` is left to the parser to refuse.
pub fn only(text: &str, arch: Arch) -> Result<String, ImageError> {
    if text.len() as u64 > MAX_TEXT_BYTES {
        return Err(ImageError::Malformed(format!(
            "a text of {} bytes, more than {MAX_TEXT_BYTES}",
            text.len()
        )));
    }
    match target(text) {
        Some(target) if !suits(target, arch) => Err(ImageError::NoPtx {
            arch,
            found: vec![format!("PTX for {}", name(target))],
        }),
        _ => Ok(text.to_owned()),
    }
}

/// Capability times ten, and the letter of architecture-specific instructions.
fn capability(arch: Arch) -> (u32, Option<char>) {
    match arch {
        Arch::Sm80 => (80, None),
        Arch::Sm90a => (90, Some('a')),
    }
}

fn suits(target: Target, arch: Arch) -> bool {
    let (capability, suffix) = capability(arch);
    match target.suffix {
        None => target.capability <= capability,
        Some(_) => target.capability == capability && target.suffix == suffix,
    }
}

/// The first `.target` of a text that is not in a comment.
fn target(text: &str) -> Option<Target> {
    text.lines().find_map(|line| {
        let name = line.trim_start().strip_prefix(".target")?.trim_start();
        let name = name
            .split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .next()?;
        let digits = name.strip_prefix("sm_")?;
        let suffix = digits.chars().next_back().filter(char::is_ascii_alphabetic);
        let digits = digits.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        Some(Target {
            capability: digits.parse().ok()?,
            suffix,
        })
    })
}

fn name(target: Target) -> String {
    format!(
        "sm_{}{}",
        target.capability,
        target.suffix.map_or(String::new(), String::from)
    )
}

fn contents(entries: &[Entry<'_>]) -> Vec<String> {
    let describe = |entry: &Entry<'_>| {
        let what = if entry.is_ptx { "PTX" } else { "machine code" };
        format!("{what} for sm_{}", entry.capability)
    };
    entries.iter().map(describe).collect()
}
