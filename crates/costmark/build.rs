//! Records which source this binary was built from, so that a result can name it.
//! Outside a git checkout (an unpacked archive) the revision is empty, not an error.

use std::process::Command;

fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).trim().to_string())
}

fn main() {
    let revision = git(&["rev-parse", "HEAD"]).unwrap_or_default();
    let dirty = git(&["status", "--porcelain", "--untracked-files=no"])
        .is_some_and(|status| !status.is_empty());
    println!("cargo:rustc-env=COSTMARK_GIT_REVISION={revision}");
    println!("cargo:rustc-env=COSTMARK_GIT_DIRTY={dirty}");
    let [version, profile, target] = ["CARGO_PKG_VERSION", "PROFILE", "TARGET"]
        .map(|name| std::env::var(name).unwrap_or_default());
    println!("cargo:rustc-env=COSTMARK_BUILD_PROFILE={profile}");
    println!("cargo:rustc-env=COSTMARK_BUILD_TARGET={target}");
    let source = match revision.get(..12) {
        Some(short) if dirty => format!("{short} with changes"),
        Some(short) => short.to_string(),
        None => "not built from a checkout".to_string(),
    };
    println!("cargo:rustc-env=COSTMARK_LONG_VERSION={version} ({source}, {profile}, {target})");
    // A commit moves HEAD or its branch; an edit under crates/ changes the dirty flag.
    for name in ["HEAD", "logs/HEAD"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name]) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    for path in ["../../crates", "../../configs", "../../Cargo.lock"] {
        if std::path::Path::new(path).exists() {
            println!("cargo:rerun-if-changed={path}");
        }
    }
}
