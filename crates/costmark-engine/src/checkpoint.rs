//! From what the user calls a model to a checkpoint whose tensors can be asked for.
//!
//! A model is, in this order:
//! 1. a path that exists: a folder with `config.json` and safetensors, a `.gguf` file, or,
//!    for synthetic weights, a single `.json` configuration;
//! 2. the name of a built-in shape ([`builtin`]), for synthetic weights; these also
//!    answer to their hub ids;
//! 3. a hub id ([`HubId`]).
//!
//! Anything else is an error that names the closest built-in shape.

use std::path::{Path, PathBuf};

use candle_core::Device;

use crate::builtin;
use crate::config::{self, ModelConfig};
use crate::error::{EngineError, Result};
use crate::hub::{self, HubId, HubOptions, Wanted};
use crate::tokenizer::TokenizerSource;
use crate::weights::gguf::GgufWeights;
use crate::weights::layout::matrices;
use crate::weights::progress::{Loading, ProgressFn};
use crate::weights::safetensors::SafetensorsWeights;
use crate::weights::{FormatChoice, SyntheticWeights, TensorFormat, WeightSource};

/// Which numbers to put into the model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum WeightChoice {
    /// Those of the checkpoint.
    #[default]
    Real,
    /// Random ones of the checkpoint's shape; only its configuration is read.
    Synthetic {
        /// Equal seeds give equal weights.
        seed: u64,
    },
}

/// What to open and how.
#[derive(Clone)]
pub struct OpenOptions {
    /// A folder, a `.gguf` file, a built-in name or a hub id.
    pub model: String,
    /// Real or synthetic weights.
    pub weights: WeightChoice,
    /// How matrices shall be stored.
    pub format: FormatChoice,
    /// Where weights are put.
    pub device: Device,
    /// Told how far downloading and loading are.
    pub progress: Option<ProgressFn>,
    /// How the hub is reached; none for what the environment says.
    pub hub: Option<HubOptions>,
}

impl OpenOptions {
    /// Real weights as stored, on the CPU.
    #[must_use]
    pub fn new(model: impl Into<String>) -> Self {
        Self {
            model: model.into(),
            weights: WeightChoice::Real,
            format: FormatChoice::AsStored,
            device: Device::Cpu,
            progress: None,
            hub: None,
        }
    }
}

/// A checkpoint whose tensors can be asked for. Opening one reads headers only.
pub struct Checkpoint {
    /// The model's configuration.
    pub config: ModelConfig,
    /// Where the weights come from, for results: a path, a hub id with revision, or
    /// `synthetic, seed n`.
    pub source: String,
    /// The weights are random numbers.
    pub synthetic: bool,
    /// Commit of a hub checkpoint.
    pub revision: Option<String>,
    /// Conversions and other facts a reader of the result must know.
    pub notes: Vec<String>,
    /// Where its tokenizer is, if it has one.
    pub tokenizer: Option<TokenizerSource>,
    /// The folder with `config.json`, or the GGUF file; none for built-in shapes.
    pub path: Option<PathBuf>,
    /// Hands out the tensors.
    pub weights: Box<dyn WeightSource + Send>,
}

impl Checkpoint {
    /// Random weights of `config`'s shape, see [`SyntheticWeights`].
    #[must_use]
    pub fn synthetic(
        config: ModelConfig,
        format: FormatChoice,
        seed: u64,
        device: &Device,
    ) -> Self {
        let weights = SyntheticWeights::new(&config, format, seed, device);
        Self {
            source: format!("synthetic, seed {seed}"),
            synthetic: true,
            revision: None,
            notes: vec!["synthetic weights: the output means nothing, the speed does".into()],
            tokenizer: None,
            path: None,
            weights: Box::new(weights),
            config,
        }
    }

    /// Finds the model, reads its configuration and the headers of its weights.
    ///
    /// # Errors
    /// When the model is not found or cannot be loaded; the message names the file and
    /// tensor, or the option, and the way out.
    pub fn open(options: &OpenOptions) -> Result<Self> {
        let mut opened = match Model::find(options)? {
            Model::Gguf(path) => Self::gguf(&path, options)?,
            Model::Folder(folder) => Self::folder(&folder, options)?,
            Model::Shape(config) => Self::of_shape(*config, options)?,
            Model::Hub(id) => Self::hub(&id, options)?,
        };
        opened.say_conversions(options);
        Ok(opened)
    }

    fn gguf(path: &Path, options: &OpenOptions) -> Result<Self> {
        let synthetic = matches!(options.weights, WeightChoice::Synthetic { .. });
        let stored = if synthetic {
            FormatChoice::AsStored
        } else {
            options.format
        };
        let loading = Loading::new(options.progress.clone());
        let source = GgufWeights::open(path, stored, &options.device, loading)?;
        let tokenizer = source.tokenizer();
        let config = source.config().clone();
        let mut opened = if synthetic {
            Self::of_shape(config, options)?
        } else {
            Self {
                config,
                source: path.display().to_string(),
                synthetic: false,
                revision: None,
                notes: vec![format!("GGUF: {}", source.mix())],
                tokenizer: None,
                path: None,
                weights: Box::new(source),
            }
        };
        opened.tokenizer = tokenizer;
        opened.path = Some(path.to_path_buf());
        Ok(opened)
    }

    fn folder(folder: &Path, options: &OpenOptions) -> Result<Self> {
        let config = read_config(folder)?;
        let mut opened = if matches!(options.weights, WeightChoice::Synthetic { .. }) {
            Self::of_shape(config, options)?
        } else {
            let weights = SafetensorsWeights::open(
                folder,
                &config.shape,
                options.format,
                &options.device,
                Loading::new(options.progress.clone()),
            )?;
            Self {
                config,
                source: folder.display().to_string(),
                synthetic: false,
                revision: None,
                notes: Vec::new(),
                tokenizer: None,
                path: None,
                weights: Box::new(weights),
            }
        };
        let tokenizer = folder.join("tokenizer.json");
        opened.tokenizer = tokenizer
            .is_file()
            .then_some(TokenizerSource::Json(tokenizer));
        opened.path = Some(folder.to_path_buf());
        Ok(opened)
    }

    /// Synthetic weights as asked for.
    fn of_shape(config: ModelConfig, options: &OpenOptions) -> Result<Self> {
        match options.weights {
            WeightChoice::Synthetic { seed } => Ok(Self::synthetic_with(config, seed, options)),
            WeightChoice::Real => Err(EngineError::Option(format!(
                "`{}` is a shape without weights: add `--weights synthetic` for random ones, or \
                 give a hub id, a folder or a .gguf file",
                options.model
            ))),
        }
    }

    fn synthetic_with(config: ModelConfig, seed: u64, options: &OpenOptions) -> Self {
        let mut opened = Self::synthetic(config, options.format, seed, &options.device);
        let loading = Loading::new(options.progress.clone());
        opened.weights = Box::new(
            SyntheticWeights::new(&opened.config, options.format, seed, &options.device)
                .with_progress(loading),
        );
        opened
    }

    fn hub(id: &HubId, options: &OpenOptions) -> Result<Self> {
        let snapshot = fetch(id, options)?;
        let mut opened = match &snapshot.file {
            Some(file) => Self::gguf(file, options)?,
            None => Self::folder(&snapshot.folder, options)?,
        };
        if id.file.is_none() {
            opened.config.name.clone_from(&id.repository);
        }
        if !opened.synthetic {
            opened.source = format!("{id} at {}", snapshot.revision);
        }
        if snapshot.from_cache_only {
            opened
                .notes
                .push("the hub was not asked; the model is the one in the cache".into());
        }
        opened.revision = Some(snapshot.revision);
        Ok(opened)
    }

    fn say_conversions(&mut self, options: &OpenOptions) {
        let all = matrices(&self.config.shape);
        if options.format != FormatChoice::AsStored && !self.synthetic {
            self.notes.push(format!(
                "matrices converted to {} while loading",
                options.format
            ));
        }
        if let FormatChoice::All(wanted) = options.format {
            let formats = all
                .iter()
                .filter_map(|m| Some((m, self.weights.stored_as(&m.name).ok()?)));
            let other: Vec<_> = formats.filter(|(_, format)| *format != wanted).collect();
            if let Some((first, format)) = other.first() {
                self.notes.push(format!(
                    "{} of {} matrices are {format} instead of {wanted}: their rows ({} values \
                     for {}) do not divide into blocks of {}",
                    other.len(),
                    all.len(),
                    first.in_features,
                    first.name,
                    wanted.block_len()
                ));
            }
        }
        let has = |wanted: fn(TensorFormat) -> bool| {
            all.iter()
                .any(|m| self.weights.stored_as(&m.name).is_ok_and(wanted))
        };
        let halves = |format| matches!(format, TensorFormat::F16 | TensorFormat::BF16);
        if options.device.is_cpu() && has(halves) {
            self.notes
                .push("16-bit weights are widened to f32 inside each product (exact)".into());
        }
    }
}

/// Where a model is, once it is on this machine.
pub(crate) enum Place {
    Folder(PathBuf),
    Gguf(PathBuf),
    /// Built in, or a configuration alone.
    Shape(Box<ModelConfig>),
}

/// A model found for a reader of its own.
pub(crate) struct Located {
    pub(crate) place: Place,
    /// For humans.
    pub(crate) name: String,
    /// For results.
    pub(crate) source: String,
}

impl OpenOptions {
    /// Finds the model, fetching it from the hub if need be, without reading it.
    ///
    /// # Errors
    /// As for [`Checkpoint::open`].
    pub(crate) fn locate(&self) -> Result<Located> {
        let local = |place, path: &Path| Located {
            place,
            name: path
                .canonicalize()
                .unwrap_or_else(|_| path.to_path_buf())
                .file_stem()
                .map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
            source: path.display().to_string(),
        };
        Ok(match Model::find(self)? {
            Model::Gguf(path) => local(Place::Gguf(path.clone()), &path),
            Model::Folder(path) => local(Place::Folder(path.clone()), &path),
            Model::Shape(config) => Located {
                name: config.name.clone(),
                source: self.model.clone(),
                place: Place::Shape(config),
            },
            Model::Hub(id) => {
                let snapshot = fetch(&id, self)?;
                Located {
                    name: id.repository.clone(),
                    source: format!("{id} at {}", snapshot.revision),
                    place: match snapshot.file {
                        Some(file) => Place::Gguf(file),
                        None => Place::Folder(snapshot.folder),
                    },
                }
            }
        })
    }
}

fn fetch(id: &HubId, options: &OpenOptions) -> Result<hub::Snapshot> {
    let from_env;
    let hub_options = if let Some(hub_options) = &options.hub {
        hub_options
    } else {
        from_env = HubOptions::from_env()?;
        &from_env
    };
    let wanted = match options.weights {
        WeightChoice::Real => Wanted::Everything,
        WeightChoice::Synthetic { .. } => Wanted::Config,
    };
    hub::fetch(id, wanted, hub_options, options.progress.as_ref())
}

/// What a model specification stands for.
enum Model {
    Gguf(PathBuf),
    Folder(PathBuf),
    Shape(Box<ModelConfig>),
    Hub(HubId),
}

impl Model {
    fn find(options: &OpenOptions) -> Result<Self> {
        let model = options.model.as_str();
        let path = Path::new(model);
        let extension = path
            .extension()
            .map(|extension| extension.to_string_lossy().to_lowercase())
            .unwrap_or_default();
        if path.is_dir() {
            return Ok(Self::Folder(path.to_path_buf()));
        }
        if path.is_file() {
            return match extension.as_str() {
                "gguf" => Ok(Self::Gguf(path.to_path_buf())),
                "json" => {
                    let name = path.file_stem().unwrap_or_default().to_string_lossy();
                    let config = config::from_json(&name, path, &read(path)?, None)?;
                    Ok(Self::Shape(Box::new(config)))
                }
                "safetensors" => Err(EngineError::file(
                    path,
                    "give the folder that holds it and its config.json",
                )),
                "bin" | "pt" | "pth" => Err(EngineError::file(
                    path,
                    "Python pickles can run code and are not loaded; convert to safetensors",
                )),
                _ => Err(EngineError::file(
                    path,
                    "is neither a folder nor a .gguf file",
                )),
            };
        }
        let synthetic = matches!(options.weights, WeightChoice::Synthetic { .. });
        let hub_id = HubId::parse(model);
        if let Some(config) = builtin::find(model)?
            && (synthetic || hub_id.is_none())
        {
            return Ok(Self::Shape(Box::new(config)));
        }
        let looks_like_path = model.starts_with(['.', '/', '~']) || path.components().count() > 2;
        match hub_id {
            Some(id) if id.file.is_some() || (!looks_like_path && extension != "gguf") => {
                Ok(Self::Hub(id))
            }
            _ if looks_like_path || matches!(extension.as_str(), "gguf" | "json") => {
                Err(EngineError::file(path, "there is no such file or folder"))
            }
            _ => Err(unknown(model)),
        }
    }
}

fn unknown(model: &str) -> EngineError {
    let meant = match builtin::closest(model) {
        Some(name) => format!("did you mean `{name}`? "),
        None => String::new(),
    };
    EngineError::Option(format!(
        "model `{model}`: {meant}A model is a folder, a .gguf file, a hub id `owner/name`, or one \
         of the built-in shapes {}",
        builtin::names().join(", ")
    ))
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| EngineError::file(path, format!("cannot read: {error}")))
}

/// `config.json` of a folder, with `generation_config.json` where there is one.
fn read_config(folder: &Path) -> Result<ModelConfig> {
    let path = folder.join("config.json");
    if !path.is_file() {
        return Err(EngineError::file(
            folder,
            "has no config.json; give the folder of a Hugging Face checkpoint, or a .gguf file",
        ));
    }
    let json = read(&path)?;
    let generation_path = folder.join("generation_config.json");
    let generation = if generation_path.is_file() {
        Some(read(&generation_path)?)
    } else {
        None
    };
    let name = folder
        .canonicalize()
        .unwrap_or_else(|_| folder.to_path_buf())
        .file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned());
    config::from_json(
        &name,
        &path,
        &json,
        generation
            .as_deref()
            .map(|json| (generation_path.as_path(), json)),
    )
}
