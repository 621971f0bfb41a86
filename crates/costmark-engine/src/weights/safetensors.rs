//! Hugging Face folders: `model.safetensors`, or shards listed by
//! `model.safetensors.index.json`.

use std::collections::{BTreeSet, HashMap};
use std::path::{Component, Path, PathBuf};

use candle_core::{Device, Tensor};
use costmark_core::ModelShape;
use safetensors::{Dtype, SafeTensors};
use serde::Deserialize;

use super::layout::{matrices, vectors};
use super::mmap::MappedFile;
use super::progress::Loading;
use super::stored::{self, Entry, Origin};
use super::{FormatChoice, TensorFormat, WeightSource};
use crate::error::{EngineError, Result};
use crate::linear::Linear;

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";

/// Tensors of a folder of safetensors files.
pub struct SafetensorsWeights {
    folder: PathBuf,
    files: Vec<MappedFile>,
    entries: HashMap<String, Entry>,
    targets: HashMap<String, TensorFormat>,
    device: Device,
    loading: Loading,
}

#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

/// The weight files of a folder, by what is in it: one file, or the shards of its index.
///
/// # Errors
/// When there are none, or the index is malformed or points outside the folder.
pub fn weight_files(folder: &Path) -> Result<Vec<String>> {
    let index_path = folder.join(INDEX);
    if index_path.is_file() {
        let json = std::fs::read_to_string(&index_path)
            .map_err(|error| EngineError::file(&index_path, format!("cannot read: {error}")))?;
        return index_files(&index_path, &json);
    }
    if folder.join(SINGLE).is_file() {
        return Ok(vec![SINGLE.into()]);
    }
    let names: Vec<String> = std::fs::read_dir(folder)
        .map_err(|error| EngineError::file(folder, format!("cannot list: {error}")))?
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    let with_extension = |extension: &str| {
        let mut found: Vec<String> = names
            .iter()
            .filter(|name| Path::new(name).extension().is_some_and(|e| e == extension))
            .cloned()
            .collect();
        found.sort();
        found
    };
    let safetensors = with_extension("safetensors");
    match safetensors.as_slice() {
        [one] => return Ok(vec![one.clone()]),
        [] => {}
        [first, ..] => {
            return Err(EngineError::file(
                folder,
                format!(
                    "{} safetensors files (`{first}`, …) and no `{INDEX}` that says which make \
                     up the model",
                    safetensors.len()
                ),
            ));
        }
    }
    if let Some(gguf) = with_extension("gguf").first() {
        return Err(EngineError::file(
            folder,
            format!(
                "no safetensors files, but GGUF: name the file, e.g. `--model {}`",
                folder.join(gguf).display()
            ),
        ));
    }
    let pickled = ["bin", "pt", "pth"]
        .iter()
        .any(|e| !with_extension(e).is_empty());
    Err(EngineError::file(
        folder,
        if pickled {
            "the weights are Python pickles, which can run code and are not loaded; convert \
             them once with transformers: `AutoModelForCausalLM.from_pretrained(folder)\
             .save_pretrained(out, safe_serialization=True)`"
                .to_string()
        } else {
            format!("no `{SINGLE}` and no `{INDEX}`; `--weights synthetic` needs only config.json")
        },
    ))
}

/// The files an index names, each once, sorted.
///
/// # Errors
/// When the index is malformed or points outside its folder.
pub fn index_files(path: &Path, json: &str) -> Result<Vec<String>> {
    let index: Index = serde_json::from_str(json)
        .map_err(|error| EngineError::file(path, format!("not a safetensors index: {error}")))?;
    let files: BTreeSet<String> = index.weight_map.into_values().collect();
    for file in &files {
        let inside = Path::new(file)
            .components()
            .all(|part| matches!(part, Component::Normal(_)));
        if !inside || file.is_empty() || file.contains('\\') {
            return Err(EngineError::file(
                path,
                format!("names `{file}`, which is outside the folder; the index is not trusted"),
            ));
        }
        if Path::new(file)
            .extension()
            .is_none_or(|e| e != "safetensors")
        {
            return Err(EngineError::file(
                path,
                format!("names `{file}`, which is not a .safetensors file"),
            ));
        }
    }
    if files.is_empty() {
        return Err(EngineError::file(path, "names no file"));
    }
    Ok(files.into_iter().collect())
}

impl SafetensorsWeights {
    /// Maps the files of `folder` and checks their headers. Tensors are read when asked for.
    ///
    /// # Errors
    /// Names the file when it is missing, cut off, malformed or outside the folder, and
    /// the tensor when one is missing or unknown to the architecture.
    pub fn open(
        folder: &Path,
        shape: &ModelShape,
        choice: FormatChoice,
        device: &Device,
        loading: Loading,
    ) -> Result<Self> {
        let mut this = Self::scan(folder, device, loading)?;
        this.check_names(shape)?;
        for matrix in matrices(shape) {
            let stored = this.entry(&format!("{}.weight", matrix.name))?.format;
            let target = choice.of(&matrix, shape).unwrap_or(stored);
            this.targets.insert(matrix.name, target);
        }
        Ok(this)
    }

    /// As [`open`](Self::open) for an architecture that is not known here: every tensor is
    /// taken as it comes, through [`dense`](Self::dense).
    ///
    /// # Errors
    /// Names the file when it is missing, cut off, malformed or outside the folder.
    pub(crate) fn scan(folder: &Path, device: &Device, loading: Loading) -> Result<Self> {
        let mut this = Self {
            folder: folder.to_path_buf(),
            files: Vec::new(),
            entries: HashMap::new(),
            targets: HashMap::new(),
            device: device.clone(),
            loading,
        };
        for name in weight_files(folder)? {
            let path = folder.join(&name);
            stay_inside(folder, &path)?;
            this.add_file(&path)?;
        }
        this.loading.expect(
            this.entries.len() as u64,
            this.entries.values().map(|e| e.range.len() as u64).sum(),
        );
        Ok(this)
    }

    /// Whether a tensor of this name is stored.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Checks that a tensor of this name and shape is stored.
    ///
    /// # Errors
    /// Names file and tensor when it is not.
    pub(crate) fn expect(&self, name: &str, shape: &[u64]) -> Result<()> {
        let origin = Origin {
            path: self.path_of(name),
            tensor: name,
        };
        origin.check_shape(&self.entry(name)?.shape, shape)
    }

    /// One whole tensor in f32; exact.
    ///
    /// # Errors
    /// When it is missing, of another shape, or the device fails.
    pub(crate) fn dense(&mut self, name: &str, shape: &[usize]) -> Result<Tensor> {
        let dims: Vec<u64> = shape.iter().map(|&n| n as u64).collect();
        self.expect(name, &dims)?;
        let entry = self.entry(name)?.clone();
        let file = &self.files[entry.file];
        let values = stored::floats(&file.bytes()[entry.range.clone()], entry.format);
        file.release(entry.range.clone());
        self.loading.loaded(entry.range.len() as u64);
        Ok(Tensor::from_vec(values, shape, &self.device)?)
    }

    fn add_file(&mut self, path: &Path) -> Result<()> {
        let file = MappedFile::open(path)?;
        let bytes = file.bytes();
        let (header_len, header) = SafeTensors::read_metadata(bytes).map_err(|error| {
            EngineError::file(
                path,
                format!("not a whole safetensors file ({error}); fetch it again"),
            )
        })?;
        let data_start = header_len + 8;
        for (name, info) in header.tensors() {
            let origin = Origin {
                path,
                tensor: &name,
            };
            let format = match info.dtype {
                Dtype::F32 => TensorFormat::F32,
                Dtype::F16 => TensorFormat::F16,
                Dtype::BF16 => TensorFormat::BF16,
                // Buffers like position ids; an error only when a weight is of such a type.
                _ if !is_weight(&name) => continue,
                other => {
                    return Err(origin.error(format!(
                        "is of type {other:?}; f32, f16 and bf16 are supported. Take an \
                         unquantised checkpoint (with --quantize) or a GGUF of the model"
                    )));
                }
            };
            let entry = Entry {
                file: self.files.len(),
                range: data_start + info.data_offsets.0..data_start + info.data_offsets.1,
                format,
                shape: info.shape.iter().map(|&n| n as u64).collect(),
            };
            if let Some(earlier) = self.entries.insert(name.clone(), entry) {
                let other = self.files.get(earlier.file).map_or(path, MappedFile::path);
                return Err(origin.error(format!("is in `{}` too", other.display())));
            }
        }
        self.files.push(file);
        Ok(())
    }

    /// Everything the model needs is there, and nothing that would change its output is
    /// left over.
    fn check_names(&self, shape: &ModelShape) -> Result<()> {
        let mut expected: BTreeSet<String> = vectors(shape)
            .into_iter()
            .map(|(name, _)| format!("{name}.weight"))
            .collect();
        for matrix in matrices(shape) {
            if matrix.bias {
                expected.insert(format!("{}.bias", matrix.name));
            }
            expected.insert(format!("{}.weight", matrix.name));
        }
        for name in &expected {
            self.entry(name)?;
        }
        let surplus = self
            .entries
            .keys()
            .filter(|name| is_weight(name) && !expected.contains(*name))
            // A copy of the tied embedding is often stored.
            .filter(|name| *name != "lm_head.weight")
            .min();
        match surplus {
            None => Ok(()),
            Some(name) => Err(Origin {
                path: self.path_of(name),
                tensor: name,
            }
            .error(
                "the architecture in config.json has no such weight; running without it would \
                 give wrong results",
            )),
        }
    }

    fn path_of(&self, name: &str) -> &Path {
        self.entries
            .get(name)
            .and_then(|entry| self.files.get(entry.file))
            .map_or(&self.folder, MappedFile::path)
    }

    fn entry(&self, name: &str) -> Result<&Entry> {
        self.entries.get(name).ok_or_else(|| {
            let origin = Origin {
                path: &self.folder,
                tensor: name,
            };
            origin.error(if name == "lm_head.weight" {
                "missing from all files; if the output projection is the embedding, \
                 config.json must say `\"tie_word_embeddings\": true`"
            } else {
                "missing from all files; the download is not complete, or config.json belongs \
                 to another model"
            })
        })
    }

    fn take_vector(&mut self, name: &str, len: u64) -> Result<Tensor> {
        let entry = self.entry(name)?.clone();
        let file = &self.files[entry.file];
        let origin = Origin {
            path: file.path(),
            tensor: name,
        };
        origin.check_shape(&entry.shape, &[len])?;
        let tensor = stored::vector(
            &file.bytes()[entry.range.clone()],
            entry.format,
            origin,
            &self.device,
        )?;
        self.loading.loaded(entry.range.len() as u64);
        Ok(tensor)
    }
}

impl WeightSource for SafetensorsWeights {
    fn linear(
        &mut self,
        name: &str,
        out_features: u64,
        in_features: u64,
        bias: bool,
    ) -> Result<Linear> {
        let bias = if bias {
            Some(self.take_vector(&format!("{name}.bias"), out_features)?)
        } else {
            None
        };
        let full_name = format!("{name}.weight");
        let entry = self.entry(&full_name)?.clone();
        let target = self.stored_as(name)?;
        let file = &self.files[entry.file];
        let origin = Origin {
            path: file.path(),
            tensor: &full_name,
        };
        origin.check_shape(&entry.shape, &[out_features, in_features])?;
        let linear = stored::linear(
            &file.bytes()[entry.range.clone()],
            entry.format,
            target,
            (out_features as usize, in_features as usize),
            bias,
            &self.device,
        )?;
        file.release(entry.range.clone());
        self.loading.loaded(entry.range.len() as u64);
        Ok(linear)
    }

    fn vector(&mut self, name: &str, len: u64) -> Result<Tensor> {
        self.take_vector(&format!("{name}.weight"), len)
    }

    fn stored_as(&self, name: &str) -> Result<TensorFormat> {
        match self.targets.get(name) {
            Some(format) => Ok(*format),
            None => Ok(self.entry(&format!("{name}.weight"))?.format),
        }
    }
}

/// Whether a tensor takes part in the computation, as opposed to buffers that some
/// versions of transformers stored along.
fn is_weight(name: &str) -> bool {
    (name.ends_with(".weight") || name.ends_with(".bias")) && !name.contains("rotary_emb")
}

/// A file named by an index may be a link only within its folder, or, as in the hub's
/// cache, from `snapshots/<commit>/` to the `blobs` folder beside.
fn stay_inside(folder: &Path, file: &Path) -> Result<()> {
    let resolve = |path: &Path| {
        path.canonicalize().map_err(|error| {
            EngineError::file(
                path,
                format!("named by the index, cannot be opened: {error}; fetch it again"),
            )
        })
    };
    let real = resolve(file)?;
    let folder = resolve(folder)?;
    if real.starts_with(&folder) {
        return Ok(());
    }
    let blobs = folder
        .parent()
        .filter(|snapshots| snapshots.ends_with("snapshots"))
        .and_then(Path::parent)
        .map(|repository| repository.join("blobs"));
    if blobs.is_some_and(|blobs| real.starts_with(blobs)) {
        return Ok(());
    }
    Err(EngineError::file(
        file,
        format!(
            "is a link to {} outside the folder; copy the file or name that folder",
            real.display()
        ),
    ))
}
