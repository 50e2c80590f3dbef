//! Reads the kernel sources: names, the architectures each declares, and what each includes.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Component, Path, PathBuf};

use super::read;

/// What a `.cu` file is written for, as its header comment declares: a line `// archs: sm_80`, which
/// is also the default, or `// archs: sm_90a`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// Runs on compute capability 8.0 and newer.
    Sm80,
    /// Uses instructions that only compute capability 9.0 has.
    Sm90a,
}

/// One kernel file.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// The path below `kernels/` without extension: `nms`, `attention/forward_sm80`.
    pub name: String,
    pub family: Family,
    /// The file itself and all that it includes, by path below `kernels/`.
    pub files: BTreeMap<PathBuf, String>,
}

impl Kernel {
    /// Whether tests alone launch its kernels: such files are built with the feature `testing` only.
    pub fn is_for_tests(&self) -> bool {
        self.name.starts_with("testing/")
    }
}

/// All kernels below `root`, by name. `root/common` holds headers alone.
pub fn scan(root: &Path) -> Result<Vec<Kernel>, String> {
    let mut paths = Vec::new();
    list(root, &mut paths)?;
    paths.sort();
    paths
        .iter()
        .filter_map(|path| path.strip_prefix(root).ok())
        .filter(|path| !path.starts_with("common"))
        .map(|path| kernel(root, path))
        .collect()
}

/// Collects the `.cu` files below `directory`.
fn list(directory: &Path, paths: &mut Vec<PathBuf>) -> Result<(), String> {
    let named = |error| format!("{}: {error}", directory.display());
    for entry in std::fs::read_dir(directory).map_err(named)? {
        let path = entry.map_err(named)?.path();
        if path.is_dir() {
            list(&path, paths)?;
        } else if path.extension().is_some_and(|extension| extension == "cu") {
            paths.push(path);
        }
    }
    Ok(())
}

fn kernel(root: &Path, path: &Path) -> Result<Kernel, String> {
    let name = path
        .with_extension("")
        .to_str()
        .ok_or_else(|| format!("kernels/{}: the name is not UTF-8", path.display()))?
        .to_owned();
    let mut files = BTreeMap::new();
    collect(root, path, &mut files)?;
    let family =
        family(&files[path]).map_err(|why| format!("kernels/{}: {why}", path.display()))?;
    Ok(Kernel {
        name,
        family,
        files,
    })
}

/// Reads `path` and, through its `#include "..."` lines, whatever it depends on. A condition around
/// an include is not evaluated: at worst a header counts that is not used. `#include <...>` names
/// the toolkit's headers, for which nvcc's version stands.
fn collect(root: &Path, path: &Path, files: &mut BTreeMap<PathBuf, String>) -> Result<(), String> {
    if files.contains_key(path) {
        return Ok(());
    }
    let text = read(&root.join(path))?;
    let included: Vec<String> = text
        .lines()
        .filter_map(quoted_include)
        .map(str::to_owned)
        .collect();
    files.insert(path.to_path_buf(), text);
    let beside = path.parent().unwrap_or(Path::new(""));
    for include in included {
        let candidates = [normal(&beside.join(&include)), normal(Path::new(&include))];
        let header = candidates
            .iter()
            .find(|header| root.join(header).is_file())
            .ok_or_else(|| {
                format!(
                    "kernels/{}: \"{include}\" is neither beside it nor in kernels/",
                    path.display()
                )
            })?;
        collect(root, header, files)?;
    }
    Ok(())
}

/// The name in a line `#include "name"`.
fn quoted_include(line: &str) -> Option<&str> {
    let directive = line.trim_start().strip_prefix('#')?.trim_start();
    let name = directive
        .strip_prefix("include")?
        .trim_start()
        .strip_prefix('"')?;
    name.split_once('"').map(|(name, _)| name)
}

/// Folds `.` and `..` away, so that one file has one name.
fn normal(path: &Path) -> PathBuf {
    let mut folded = PathBuf::new();
    for component in path.components() {
        match component {
            Component::CurDir => {}
            Component::ParentDir => {
                folded.pop();
            }
            other => folded.push(other),
        }
    }
    folded
}

/// The family that `text` declares.
fn family(text: &str) -> Result<Family, String> {
    let declared: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("// archs:"))
        .map(str::trim)
        .collect();
    match declared[..] {
        [] | ["sm_80"] => Ok(Family::Sm80),
        ["sm_90a"] => Ok(Family::Sm90a),
        [other] => Err(format!("`archs` must be sm_80 or sm_90a, got `{other}`")),
        _ => Err("more than one line `// archs:`".to_owned()),
    }
}

/// The architectures to build for. They never depend on the building machine's GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archs {
    /// Compute capabilities, ascending, for which sm_80 files get machine code; PTX is made for the
    /// first, and the code of all is made from that PTX.
    plain: Vec<u32>,
    /// Whether sm_90a files are built.
    sm_90a: bool,
}

impl Archs {
    /// Reads `OCELLI_CUDA_ARCHS`, a list such as `sm_80,sm_90,sm_90a`, which is the default.
    pub fn from_setting(setting: Option<&str>) -> Result<Self, String> {
        let setting = setting
            .filter(|list| !list.trim().is_empty())
            .unwrap_or("sm_80,sm_90,sm_90a");
        let wrong = |why: String| format!("OCELLI_CUDA_ARCHS={setting}: {why}");
        let mut archs = Self {
            plain: Vec::new(),
            sm_90a: false,
        };
        for word in setting
            .split([',', ';', ' '])
            .filter(|word| !word.is_empty())
        {
            let number = word.strip_prefix("sm_").unwrap_or(word);
            match number.parse() {
                Ok(capability) if capability >= 80 => archs.plain.push(capability),
                _ if number == "90a" => archs.sm_90a = true,
                _ => {
                    return Err(wrong(format!(
                        "`{word}` is neither sm_80 or above nor sm_90a"
                    )));
                }
            }
        }
        archs.plain.sort_unstable();
        archs.plain.dedup();
        match archs.plain.is_empty() {
            true => Err(wrong(
                "most kernels need one of sm_80, sm_86, .. besides".to_owned(),
            )),
            false => Ok(archs),
        }
    }

    /// nvcc's `-gencode` values for a file of this family: none means that it is left out.
    pub fn gencode(&self, family: Family) -> Option<String> {
        match family {
            Family::Sm80 => {
                let first = self.plain[0];
                let code: String = self
                    .plain
                    .iter()
                    .map(|arch| format!(",sm_{arch}"))
                    .collect();
                Some(format!("arch=compute_{first},code=[compute_{first}{code}]"))
            }
            Family::Sm90a => self
                .sm_90a
                .then(|| "arch=compute_90a,code=[compute_90a,sm_90a]".to_owned()),
        }
    }
}

impl fmt::Display for Archs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sm_{} (code, PTX)", self.plain[0])?;
        for arch in &self.plain[1..] {
            write!(f, ", sm_{arch} (code)")?;
        }
        match self.sm_90a {
            true => write!(f, ", sm_90a (code, PTX)"),
            false => Ok(()),
        }
    }
}
