//! The ptxas report check: no spill beyond the short list in `kernels/spills.txt`, no warning.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace::Workspace;

/// The spills that stand, each line with function, architecture, the most bytes, and the reason.
const ALLOWED: &str = "kernels/spills.txt";

/// A compiled function: its name and the architecture it was compiled for.
type Function = (String, String);

/// Bytes of spill stores and loads together, for each function.
type Spills = BTreeMap<Function, u64>;

/// Builds the library, its kernels for tests too, and checks the reports kept beside its images. `false` when one is not clean.
pub fn check(workspace: &Workspace) -> Result<bool> {
    let Some(directory) = images(workspace)? else {
        println!("skipped: ptxas report: the kernels are not built");
        return Ok(true);
    };
    let allowed_path = workspace.root.join(ALLOWED);
    let allowed = fs::read_to_string(&allowed_path).with_context(|| ALLOWED.to_owned())?;
    let allowed = parse_allowed(&allowed).context(ALLOWED)?;
    let mut spills = Spills::new();
    let mut faults = Vec::new();
    for report in reports(&directory)? {
        let text = fs::read_to_string(&report).with_context(|| report.display().to_string())?;
        faults.extend(warnings(&text));
        spills.extend(parse_report(&text));
    }
    faults.extend(compare(&spills, &allowed));
    for fault in &faults {
        println!("ptxas report: {fault}");
    }
    println!(
        "ptxas report: {} functions, {} faults",
        spills.len(),
        faults.len()
    );
    Ok(faults.is_empty())
}

/// The name in a package id, `<address>#<name>@<version>`, or `<address>#<version>` where the address ends with the name.
fn package_name(id: &str) -> &str {
    let (address, rest) = id.split_once('#').unwrap_or((id, ""));
    match rest.split_once('@') {
        Some((name, _)) => name,
        None => address.rsplit('/').next().unwrap_or(address),
    }
}

/// Where the build script left the images and reports, or `None` where it had no compiler. Built as for the tests, which
/// have all kernels and mostly were there before.
fn images(workspace: &Workspace) -> Result<Option<PathBuf>> {
    let messages = workspace.build_messages(&["test", "--no-run", "--workspace"])?;
    let ours = |message: &&serde_json::Value| {
        message["reason"] == "build-script-executed"
            && message["package_id"]
                .as_str()
                .is_some_and(|id| package_name(id) == "ocelli")
    };
    let out = messages
        .iter()
        .find(ours)
        .and_then(|message| message["out_dir"].as_str());
    let images = Path::new(out.context("cargo did not run the build script")?).join("images");
    Ok(images.is_dir().then_some(images))
}

fn reports(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        paths.push(entry?.path());
    }
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    paths.sort();
    Ok(paths)
}

/// Reads what `ptxas -v` printed.
fn parse_report(text: &str) -> Spills {
    let mut spills = Spills::new();
    let mut arch = "";
    let mut function = "";
    for line in text.lines() {
        if let Some((_, rest)) = line.split_once("Compiling entry function '") {
            arch = rest.split('\'').nth(2).unwrap_or("");
        } else if let Some((_, name)) = line.split_once("Function properties for ") {
            function = name.trim();
        } else if line.contains("bytes spill stores") {
            let bytes = line
                .split(',')
                .filter(|part| part.contains(" bytes spill "));
            let bytes =
                bytes.filter_map(|part| part.split_whitespace().next()?.parse::<u64>().ok());
            spills.insert((function.to_owned(), arch.to_owned()), bytes.sum());
        }
    }
    spills
}

/// The compiler's warnings in a report.
fn warnings(text: &str) -> Vec<String> {
    text.lines()
        .filter(|line| line.to_lowercase().contains("warning"))
        .map(str::to_owned)
        .collect()
}

/// Reads the list of allowed spills: `function arch bytes reason..`, `#` begins a comment.
fn parse_allowed(text: &str) -> Result<Spills> {
    let mut allowed = Spills::new();
    for line in text
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
    {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [function, arch, bytes, _reason, ..] => {
                let bytes = bytes
                    .parse()
                    .with_context(|| format!("bytes, got `{bytes}`"))?;
                allowed.insert((function.to_owned(), arch.to_owned()), bytes);
            }
            _ => bail!("a line must be `function arch bytes reason`, got `{line}`"),
        }
    }
    Ok(allowed)
}

/// Spills that are not allowed, and allowances for what does not spill.
fn compare(spills: &Spills, allowed: &Spills) -> Vec<String> {
    let over = spills
        .iter()
        .filter_map(|(key @ (function, arch), &bytes)| {
            let limit = allowed.get(key).copied().unwrap_or(0);
            (bytes > limit)
                .then(|| format!("{function} ({arch}) spills {bytes} bytes, {limit} allowed"))
        });
    let stale = allowed.keys().filter_map(|key @ (function, arch)| {
        let spilled = spills.get(key).is_some_and(|&bytes| bytes > 0);
        (!spilled).then(|| format!("{function} ({arch}) does not spill: remove it from {ALLOWED}"))
    });
    over.chain(stale).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_id_has_a_name_wherever_the_checkout_lies() {
        assert_eq!(
            package_name("path+file:///home/x/main#ocelli@0.1.0"),
            "ocelli"
        );
        assert_eq!(package_name("path+file:///home/x/ocelli#0.1.0"), "ocelli");
        assert_eq!(
            package_name("path+file:///home/ocelli/cli#ocelli-cli@0.1.0"),
            "ocelli-cli"
        );
        assert_eq!(package_name("registry+https://x/index#half@2.7.1"), "half");
    }

    const REPORT: &str = "ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'nms_keep' for 'sm_80'
ptxas info    : Function properties for nms_keep
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 10 registers, used 0 barriers, 360 bytes cmem[0]
ptxas info    : Compiling entry function 'attention_forward_f16' for 'sm_90'
ptxas info    : Function properties for attention_forward_f16
    16 bytes stack frame, 24 bytes spill stores, 40 bytes spill loads
ptxas info    : Function properties for helper
    0 bytes stack frame, 8 bytes spill stores, 0 bytes spill loads
";

    fn key(function: &str, arch: &str) -> Function {
        (function.to_owned(), arch.to_owned())
    }

    #[test]
    fn report_gives_spills_by_function_and_architecture() {
        let expected = Spills::from([
            (key("attention_forward_f16", "sm_90"), 64),
            (key("helper", "sm_90"), 8),
            (key("nms_keep", "sm_80"), 0),
        ]);
        assert_eq!(parse_report(REPORT), expected);
    }

    #[test]
    fn only_listed_spills_pass_and_only_up_to_their_size() {
        let spills = parse_report(REPORT);
        let faults = |list: &str| compare(&spills, &parse_allowed(list).expect("a good list"));
        let list = "# a comment\n\nattention_forward_f16 sm_90 64 cold path\nhelper sm_90 8 rare\n";
        assert_eq!(faults(list), Vec::<String>::new());
        assert_eq!(faults("").len(), 2);
        let tight = list.replace("64", "63");
        assert_eq!(
            faults(&tight),
            ["attention_forward_f16 (sm_90) spills 64 bytes, 63 allowed"]
        );
        let other_arch = list.replace("helper sm_90", "helper sm_80");
        assert_eq!(faults(&other_arch).len(), 2, "one not allowed, one stale");
        let stale = format!("{list}nms_keep sm_80 4 was needed once\n");
        assert_eq!(
            faults(&stale),
            ["nms_keep (sm_80) does not spill: remove it from kernels/spills.txt"]
        );
    }

    #[test]
    fn a_line_without_a_reason_is_refused() {
        assert!(parse_allowed("helper sm_90 8").is_err());
        assert!(parse_allowed("helper sm_90 eight why").is_err());
    }

    #[test]
    fn warnings_are_found() {
        let text =
            format!("{REPORT}kernels/nms.cu(3): warning #177-D: unused\nptxas Warning : x\n");
        assert_eq!(warnings(&text).len(), 2);
        assert!(warnings(REPORT).is_empty());
    }
}
