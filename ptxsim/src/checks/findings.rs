//! Collecting findings.

use super::Conflict;
use crate::report::{Finding, FindingKind};
use std::collections::HashMap;
use std::sync::Arc;

/// CUDA source file and line of a PTX line.
pub type Sources = Arc<dyn Fn(u32) -> Option<(String, u32)> + Send + Sync>;

/// Where something was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Line of the PTX text.
    pub ptx_line: u32,
    /// Block index.
    pub block: [u32; 3],
    /// Thread index.
    pub thread: [u32; 3],
}

/// The findings of a launch. Of those of one kind at one PTX line the first is kept and the others
/// are counted.
pub struct Findings {
    kernel: String,
    sources: Sources,
    list: Vec<Finding>,
    index: HashMap<(FindingKind, u32), usize>,
}

impl Findings {
    /// No findings yet of `kernel`.
    pub fn new(kernel: &str, sources: Sources) -> Findings {
        Findings {
            kernel: kernel.to_owned(),
            sources,
            list: Vec::new(),
            index: HashMap::new(),
        }
    }

    /// Records a finding; `message` is made only for the first of its kind and line.
    pub fn add(
        &mut self,
        kind: FindingKind,
        place: Place,
        address: Option<u64>,
        allocation: Option<String>,
        message: impl FnOnce() -> String,
    ) {
        if let Some(&known) = self.index.get(&(kind, place.ptx_line)) {
            self.list[known].count += 1;
            return;
        }
        self.index.insert((kind, place.ptx_line), self.list.len());
        self.list.push(Finding {
            kind,
            message: message(),
            kernel: self.kernel.clone(),
            source: (self.sources)(place.ptx_line),
            ptx_line: place.ptx_line,
            block: place.block,
            thread: place.thread,
            address,
            allocation,
            count: 1,
        });
    }

    /// Records a race or a missing proxy fence. `address` as the kernel's programmer knows it.
    pub fn add_conflict(
        &mut self,
        conflict: &Conflict,
        place: Place,
        address: u64,
        allocation: Option<String>,
    ) {
        let earlier = self.describe_line(conflict.earlier_site);
        let message = || conflict.message(&earlier);
        self.add(
            conflict.finding(),
            place,
            Some(address),
            allocation,
            message,
        );
    }

    /// A PTX line as the source line where that is known.
    pub fn describe_line(&self, ptx_line: u32) -> String {
        match (self.sources)(ptx_line) {
            Some((file, line)) => format!("{file}:{line} (PTX line {ptx_line})"),
            None => format!("PTX line {ptx_line}"),
        }
    }

    /// Number of different findings so far.
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// The findings in the order of their first sight.
    pub fn into_list(self) -> Vec<Finding> {
        self.list
    }
}

impl std::fmt::Debug for Findings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Findings")
            .field("kernel", &self.kernel)
            .field("list", &self.list)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_are_counted() {
        let sources: Sources = Arc::new(|line| (line == 5).then(|| ("a.cu".to_owned(), 50)));
        let mut findings = Findings::new("k", sources);
        let place = |ptx_line, x| Place {
            ptx_line,
            block: [x, 0, 0],
            thread: [1, 2, 3],
        };
        let mut made = 0;
        for (line, x) in [(5, 0), (5, 1), (6, 2)] {
            findings.add(
                FindingKind::OutOfBounds,
                place(line, x),
                Some(4),
                None,
                || {
                    made += 1;
                    "m".into()
                },
            );
        }
        findings.add(FindingKind::Misaligned, place(5, 0), None, None, || {
            "m".into()
        });
        assert_eq!((findings.len(), made), (3, 2));
        let list = findings.into_list();
        assert_eq!((list[0].count, list[0].block), (2, [0, 0, 0]));
        assert_eq!(list[0].source, Some(("a.cu".to_owned(), 50)));
        assert_eq!(list[1].source, None);
    }
}
