//! A directory of made-up files.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

pub struct Tree {
    root: PathBuf,
}

impl Tree {
    /// An empty directory of this name.
    pub fn new(name: &str) -> Self {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR"))
            .join("build_script")
            .join(name);
        if root.exists() {
            fs::remove_dir_all(&root).expect("an old tree can be removed");
        }
        fs::create_dir_all(&root).expect("a new tree can be made");
        Self { root }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    pub fn file(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("a path below the root")).expect("a directory");
        fs::write(path, text).expect("a file");
    }

    /// A shell script.
    pub fn program(&self, name: &str, body: &str) {
        // Written aside and renamed: a program that is open for writing cannot be started.
        let aside = format!("{name}.new");
        self.file(&aside, &format!("#!/bin/sh\n{body}\n"));
        fs::set_permissions(self.path(&aside), fs::Permissions::from_mode(0o755)).expect("chmod");
        fs::rename(self.path(&aside), self.path(name)).expect("rename");
    }

    /// A compiler that notes each source it compiles in `NAME.log`, writes a made-up image, warns,
    /// and fails on `bad.cu` and `worse.cu` after half an image.
    pub fn nvcc(&self, name: &str, version: &str) {
        let minor = version.rsplit_once('.').map_or(version, |(minor, _)| minor);
        self.program(
            name,
            &format!(
                r#"if [ "$1" = --version ]; then echo "tools, release {minor}, V{version}"; exit; fi
while [ "$2" ]; do source=$out_of; out_of=$1; [ "$1" = -o ] && break; shift; done
echo "$source" >> "$0.log"
echo "image of $source" > "$2"
case $source in *bad.cu|*worse.cu) echo "error: made up" >&2; exit 1;; esac
echo "$source: warning: made up" >&2"#
            ),
        );
    }

    /// The names in a directory, sorted.
    pub fn list(&self, name: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(name)).expect("a directory");
        let mut names: Vec<String> = entries
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    }
}
