//! Where configuration comes from: the only file of the configuration that reads files and the environment.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::config::error::{ConfigError, ConfigErrors};
use crate::config::secret::Lookup;
use crate::config::settings::Settings;
use crate::config::{FileText, check, layers};

/// The largest audio file that is taken, in bytes.
const LARGEST: u64 = 32 * 1024 * 1024;

/// Files and variables, as they were when they were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// In the order in which they are merged.
    pub files: Vec<FileText>,
    /// Variables that are configuration.
    pub env: BTreeMap<String, String>,
}

/// The file system and environment of this process.
#[derive(Clone, Copy, Debug, Default)]
pub struct Process;

impl Lookup for Process {
    fn env(&self, name: &str) -> Option<String> {
        std::env::var(name).ok()
    }

    fn read(&self, path: &Path) -> Result<String, String> {
        std::fs::read_to_string(path).map_err(|error| error.to_string())
    }

    fn bytes(&self, path: &Path) -> Result<Vec<u8>, String> {
        let size = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
        if size > LARGEST {
            return Err(format!("it has {size} bytes; at most {LARGEST} are possible: use Ogg Opus"));
        }
        std::fs::read(path).map_err(|error| error.to_string())
    }

    fn exists(&self, path: &Path) -> bool {
        path.is_file()
    }
}

impl Sources {
    /// Reads files and the environment. A folder stands for its `*.toml`, in the order of their names; folders in it
    /// are not looked into.
    ///
    /// # Errors
    /// What cannot be read, with `unreadable` set.
    pub fn read(paths: &[PathBuf]) -> Result<Sources, ConfigErrors> {
        let mut files = Vec::new();
        let mut errors = Vec::new();
        for path in paths {
            match read_path(path) {
                Ok(found) => files.extend(found),
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            return Err(ConfigErrors { errors, unreadable: true });
        }
        let ours = |(name, _): &(String, String)| name.starts_with(layers::PREFIX);
        let env = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(ours)
            .collect();
        Ok(Sources { files, env })
    }
}

impl Settings {
    /// Reads and checks files (or folders) and the environment.
    ///
    /// # Errors
    /// Every fault that was found.
    pub fn load(paths: &[PathBuf]) -> Result<Settings, ConfigErrors> {
        let sources = Sources::read(paths)?;
        check(&sources.files, &sources.env, &Process)
    }
}

fn read_path(path: &Path) -> Result<Vec<FileText>, ConfigError> {
    let unreadable = |path: &Path, error: std::io::Error| {
        ConfigError::outside(path.display().to_string(), format!("cannot be read: {error}"), None)
    };
    if !path.is_dir() {
        return read_file(path).map(|file| vec![file]).map_err(|error| unreadable(path, error));
    }
    let entries = std::fs::read_dir(path).map_err(|error| unreadable(path, error))?;
    let mut names = Vec::new();
    for entry in entries {
        let file = entry.map_err(|error| unreadable(path, error))?.path();
        let hidden = file.file_name().is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if file.extension().is_some_and(|extension| extension == "toml") && !hidden && file.is_file() {
            names.push(file);
        }
    }
    if names.is_empty() {
        let help = "a folder stands for the files in it that end in .toml".to_owned();
        return Err(ConfigError::outside(path.display().to_string(), "holds no .toml file".to_owned(), Some(help)));
    }
    names.sort();
    names.iter().map(|file| read_file(file).map_err(|error| unreadable(file, error))).collect()
}

fn read_file(path: &Path) -> std::io::Result<FileText> {
    let text = std::fs::read_to_string(path)?;
    let dir = path.parent().unwrap_or(Path::new("")).to_path_buf();
    Ok(FileText { name: path.display().to_string(), dir, text })
}
