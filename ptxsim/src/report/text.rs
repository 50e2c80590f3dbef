//! Findings as text for people, in the manner of compute-sanitizer.

use super::{Finding, FindingKind};
use std::fmt;

impl FindingKind {
    /// The headline of a finding.
    pub fn title(self) -> &'static str {
        match self {
            FindingKind::OutOfBounds => "Access out of bounds",
            FindingKind::Misaligned => "Misaligned access",
            FindingKind::UseAfterFree => "Access to freed memory",
            FindingKind::HostPointer => "Access to host memory",
            FindingKind::Uninitialized => "Use of an uninitialized value",
            FindingKind::SharedRace => "Race on shared memory",
            FindingKind::GlobalRace => "Race between blocks on global memory",
            FindingKind::ProxyFence => "Missing proxy fence",
            FindingKind::Barrier => "Barrier error",
            FindingKind::WarpSync => "Lanes missing from a warp-wide instruction",
            FindingKind::Mbarrier => "Misuse of an mbarrier",
            FindingKind::AsyncRegister => "Register of an asynchronous operation in use",
            FindingKind::Operand => "Invalid operand",
            FindingKind::Deadlock => "Deadlock",
            FindingKind::Trap => "Trap",
            FindingKind::Leak => "Leak",
        }
    }
}

/// `(x,y,z)`
struct Index([u32; 3]);

impl fmt::Display for Index {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [x, y, z] = self.0;
        write!(f, "({x},{y},{z})")
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.kind.title(), self.message)?;
        if self.kind == FindingKind::Leak {
            return Ok(());
        }
        write!(f, "\n    in {}", self.kernel)?;
        if let Some((file, line)) = &self.source {
            write!(f, " at {file}:{line}")?;
        }
        if self.ptx_line != 0 {
            write!(f, " (PTX line {})", self.ptx_line)?;
        }
        write!(
            f,
            "\n    by thread {} in block {}",
            Index(self.thread),
            Index(self.block)
        )?;
        if let Some(address) = self.address {
            write!(f, "\n    address {address:#x}")?;
            if let Some(allocation) = &self.allocation {
                write!(f, ", {allocation}")?;
            }
        }
        if self.count > 1 {
            write!(f, "\n    seen {} times here", self.count)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::LaunchReport;
    use super::*;

    fn finding() -> Finding {
        Finding {
            kind: FindingKind::OutOfBounds,
            message: "global store of 4 bytes".into(),
            kernel: "scale".into(),
            source: Some(("scale.cu".into(), 7)),
            ptx_line: 31,
            block: [1, 0, 0],
            thread: [33, 0, 0],
            address: Some(0x1404),
            allocation: Some("4 bytes past the end of allocation 3, 1024 bytes at 0x1000".into()),
            count: 2,
        }
    }

    #[test]
    fn text_has_all_parts() {
        let expected = "Access out of bounds: global store of 4 bytes
    in scale at scale.cu:7 (PTX line 31)
    by thread (33,0,0) in block (1,0,0)
    address 0x1404, 4 bytes past the end of allocation 3, 1024 bytes at 0x1000
    seen 2 times here";
        assert_eq!(finding().to_string(), expected);
    }

    #[test]
    fn reports_survive_json_on_one_line() {
        let report = LaunchReport {
            kernel: "scale".into(),
            findings: vec![finding()],
            ..LaunchReport::default()
        };
        let json = serde_json::to_string(&report).unwrap();
        assert!(!json.contains('\n') && json.contains("\"kind\":\"out_of_bounds\""));
        assert_eq!(serde_json::from_str::<LaunchReport>(&json).unwrap(), report);
    }
}
