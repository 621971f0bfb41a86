//! Which source this binary was built from.

/// Version of the crate.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
/// Commit, empty outside a git checkout.
pub(crate) const GIT_REVISION: &str = env!("COSTMARK_GIT_REVISION");
/// Whether tracked files differed from that commit: `true` or `false`.
pub(crate) const GIT_DIRTY: &str = env!("COSTMARK_GIT_DIRTY");
/// Cargo profile kind: `debug` or `release`.
pub(crate) const PROFILE: &str = env!("COSTMARK_BUILD_PROFILE");
/// Target triple.
pub(crate) const TARGET: &str = env!("COSTMARK_BUILD_TARGET");
/// For `--version`.
pub(crate) const LONG_VERSION: &str = env!("COSTMARK_LONG_VERSION");
