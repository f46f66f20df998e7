//! The configuration folder's promises, on real files.

#![expect(clippy::expect_used, reason = "a test may stop at the first surprise")]

mod folder;
mod mistakes;
mod watching;

use std::fs;
use std::path::{Path, PathBuf};

use openclaw_common::config::{Environment, Loaded, load};
use tempfile::TempDir;

/// A configuration folder that a test fills; removed with it.
struct Folder {
    root: TempDir,
}

impl Folder {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a temporary folder");
        let folder = Self { root };
        fs::create_dir(folder.path()).expect("the configuration folder");
        folder
    }

    fn path(&self) -> PathBuf {
        self.root.path().join("config")
    }

    fn write(&self, file: &str, text: &str) -> &Self {
        let path = self.path().join(file);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a bot's folder");
        fs::write(path, text).expect("a file");
        self
    }

    /// A bot whose app is `cli_<name>`.
    fn bot(&self, name: &str) -> &Self {
        self.write(&format!("{name}/credentials.yaml"), &credentials(name))
    }

    fn load(&self, variables: &[(&str, &str)]) -> Result<Loaded, String> {
        self.load_from(&self.path(), variables)
    }

    /// Loads, with this machine's temporary folder taken out of the mistakes.
    fn load_from(&self, path: &Path, variables: &[(&str, &str)]) -> Result<Loaded, String> {
        let environment: Environment = variables.iter().copied().collect();
        let prefix = format!("{}/", self.root.path().display());
        load(path, &environment).map_err(|mistakes| mistakes.to_string().replace(&prefix, ""))
    }
}

fn credentials(name: &str) -> String {
    format!("app_id: cli_{name}\napp_secret: s-{name}\nverification_token: t-{name}\nencrypt_key: e-{name}\n")
}
