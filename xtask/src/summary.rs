//! What a run of test programs printed, in numbers.

use std::fmt;

/// The prefix of a line in which a test says what it did not run, and why.
const SKIPPED: &str = "skipped: ";

/// The reason of ignored tests that others start, each in a process of its own: nothing is skipped.
const RUN_BY_OTHERS: &str = "run by others";

/// Counts over all test programs of one run.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub passed: u32,
    pub failed: u32,
    pub ignored: u32,
    /// The names of the tests that failed.
    pub failures: Vec<String>,
    /// What was not run and why, each once, in order.
    pub skipped: Vec<String>,
}

impl Summary {
    /// Takes note of one line of output, and returns whether it tells of something skipped.
    pub fn line(&mut self, line: &str) -> bool {
        if let Some(what) = line.strip_prefix(SKIPPED) {
            self.skip(what.trim());
            return true;
        }
        let test = line
            .strip_prefix("test ")
            .and_then(|rest| rest.split_once(" ... "));
        if let Some((name, "FAILED")) = test {
            self.failures.push(name.to_owned());
        } else if let Some((name, result)) = test {
            let reason = result.strip_prefix("ignored, ");
            if let Some(reason) = reason.filter(|&reason| reason != RUN_BY_OTHERS) {
                self.skip(&format!("{name}: {reason}"));
            }
        } else if let Some((_, counts)) = line.split_once("test result: ") {
            self.passed += count(counts, "passed");
            self.failed += count(counts, "failed");
            self.ignored += count(counts, "ignored");
        }
        false
    }

    /// Notes something that was not run.
    pub fn skip(&mut self, what: &str) {
        if !self.skipped.iter().any(|known| known == what) {
            self.skipped.push(what.to_owned());
        }
    }

    /// Adds another run.
    pub fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.ignored += other.ignored;
        self.failures.extend_from_slice(&other.failures);
        other.skipped.iter().for_each(|what| self.skip(what));
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)?;
        match self.ignored {
            0 => Ok(()),
            ignored => write!(f, ", {ignored} ignored"),
        }
    }
}

/// The number before ` WORD` in `ok. 12 passed; 0 failed; ..`.
fn count(counts: &str, word: &str) -> u32 {
    counts
        .split([';', '.'])
        .filter_map(|part| part.trim().strip_suffix(word))
        .find_map(|number| number.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(text: &str) -> Summary {
        let mut summary = Summary::default();
        for line in text.lines() {
            assert_eq!(summary.line(line), line.starts_with("skipped: "), "{line}");
        }
        summary
    }

    #[test]
    fn programs_add_up() {
        let text = "running 3 tests
test a ... ok
test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.00s
skipped: nms on gpu: no driver
test b ... FAILED
test child ... ignored, run by others
test vectors ... ignored, needs vectors recorded on GPUs
test result: FAILED. 40 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 9.10s
skipped: nms on gpu: no driver
skipped: focal on gpu: no driver
";
        let expected = Summary {
            passed: 43,
            failed: 2,
            ignored: 1,
            failures: vec!["b".into()],
            skipped: vec![
                "nms on gpu: no driver".into(),
                "vectors: needs vectors recorded on GPUs".into(),
                "focal on gpu: no driver".into(),
            ],
        };
        assert_eq!(summary(text), expected);
        assert_eq!(summary(text).to_string(), "43 passed, 2 failed, 1 ignored");
        let mut twice = summary(text);
        twice.add(&summary(text));
        assert_eq!(
            (twice.passed, twice.failed, twice.skipped.len()),
            (86, 4, 3)
        );
    }

    #[test]
    fn other_lines_count_for_nothing() {
        let text = "I skipped: this\ntest skipped: x ... ok\nresult: ok. 3 passed\n\n";
        assert_eq!(summary(text), Summary::default());
    }
}
