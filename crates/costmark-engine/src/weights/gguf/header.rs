//! The header of a GGUF file: metadata, and where each tensor lies.
//!
//! Everything is read from a slice of the whole file with its bounds checked, and nothing
//! is allocated for a count the file only claims to hold. Arrays (the vocabulary) are
//! stepped over, and read when asked for. We read the header ourselves, since candle's reader divides by an
//! unchecked alignment and does not name the tensor whose type it does not know.
//!
//! Format: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

use std::collections::HashMap;
use std::ops::Range;

use crate::weights::TensorFormat;

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    /// Any unsigned or non-negative integer.
    Uint(u64),
    /// A negative integer.
    Negative(i64),
    /// 32 or 64 bits.
    Float(f64),
    /// true or false.
    Bool(bool),
    /// Text; invalid UTF-8 is replaced.
    Text(String),
    /// Elements are not kept, but where they are.
    Array(Array),
}

/// An array in the file; its extent was checked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Array {
    /// The format's number for the type of the elements.
    kind: u32,
    /// How many.
    len: u64,
    /// Where the first is.
    at: usize,
}

/// One tensor of the file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct TensorInfo {
    /// Row-major dimensions, slowest first.
    pub(crate) shape: Vec<u64>,
    /// How it is stored.
    pub(crate) format: TensorFormat,
    /// Where in the file.
    pub(crate) range: Range<usize>,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Header {
    pub(crate) metadata: HashMap<String, Value>,
    pub(crate) tensors: HashMap<String, TensorInfo>,
}

/// What is wrong with a header, and with which tensor.
#[derive(Debug, PartialEq)]
pub(crate) struct HeaderError {
    pub(crate) tensor: Option<String>,
    pub(crate) message: String,
}

impl From<String> for HeaderError {
    fn from(message: String) -> Self {
        Self {
            tensor: None,
            message,
        }
    }
}

impl From<&str> for HeaderError {
    fn from(message: &str) -> Self {
        message.to_string().into()
    }
}

const MAX_DIMS: u32 = 4;
const MAX_DEPTH: u32 = 8;
const DEFAULT_ALIGNMENT: u64 = 32;

impl Header {
    /// Reads the header of a file whose contents are `bytes`.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let mut reader = Reader { bytes, at: 0 };
        if reader.take(4)? != b"GGUF" {
            return Err("not a GGUF file: it does not begin with `GGUF`".into());
        }
        match reader.u32()? {
            2 | 3 => {}
            1 => return Err("GGUF version 1; convert the model again with a newer tool".into()),
            other if other.swap_bytes() <= 3 => {
                return Err("a big-endian GGUF file; only little-endian ones are read".into());
            }
            other => return Err(format!("GGUF version {other}; 2 and 3 are supported").into()),
        }
        let tensor_count = reader.u64()?;
        let metadata_count = reader.u64()?;
        let mut header = Self::default();
        for _ in 0..metadata_count {
            let key = reader.text()?;
            let kind = reader.u32()?;
            let value = reader.value(kind, 0)?;
            header.metadata.insert(key, value);
        }
        let mut raw = Vec::new();
        for _ in 0..tensor_count {
            raw.push(reader.tensor()?);
        }
        let alignment = match header.metadata.get("general.alignment") {
            None => DEFAULT_ALIGNMENT,
            Some(Value::Uint(n)) if n.is_power_of_two() && *n <= 1 << 20 => *n,
            Some(other) => {
                return Err(format!("`general.alignment` is {other:?}, not a power of two").into());
            }
        };
        let data_start = (reader.at as u64).next_multiple_of(alignment);
        for (name, tensor) in raw {
            let in_tensor = |message| HeaderError {
                tensor: Some(name.clone()),
                message,
            };
            let info = tensor
                .locate(data_start, bytes.len() as u64)
                .map_err(in_tensor)?;
            if header.tensors.insert(name.clone(), info).is_some() {
                return Err(in_tensor("is listed twice".into()));
            }
        }
        Ok(header)
    }

    /// A metadata number.
    pub(crate) fn uint(&self, key: &str) -> Result<Option<u64>, String> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Uint(n)) => Ok(Some(*n)),
            Some(other) => Err(format!("`{key}` is {other:?}, expected a number")),
        }
    }

    /// A metadata number, fractions allowed.
    pub(crate) fn float(&self, key: &str) -> Result<Option<f64>, String> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Float(x)) => Ok(Some(*x)),
            Some(Value::Uint(n)) => Ok(Some(*n as f64)),
            Some(other) => Err(format!("`{key}` is {other:?}, expected a number")),
        }
    }

    /// A metadata array, read from the file's `bytes`.
    pub(crate) fn array(&self, bytes: &[u8], key: &str) -> Result<Option<Vec<Value>>, String> {
        let array = match self.metadata.get(key) {
            None => return Ok(None),
            Some(Value::Array(array)) => array,
            Some(other) => return Err(format!("`{key}` is {other:?}, expected an array")),
        };
        let mut reader = Reader {
            bytes,
            at: array.at,
        };
        let elements = (0..array.len).map(|_| reader.value(array.kind, 0));
        let elements: Result<_, _> = elements.collect();
        elements.map(Some).map_err(|error| error.message)
    }

    /// A metadata truth value.
    pub(crate) fn flag(&self, key: &str) -> Result<Option<bool>, String> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(Value::Bool(value)) => Ok(Some(*value)),
            Some(other) => Err(format!("`{key}` is {other:?}, expected true or false")),
        }
    }

    /// A metadata text.
    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match self.metadata.get(key) {
            Some(Value::Text(text)) => Some(text),
            _ => None,
        }
    }
}

struct RawTensor {
    /// Fastest dimension first, as in the file.
    dims: Vec<u64>,
    kind: u32,
    offset: u64,
}

impl RawTensor {
    fn locate(self, data_start: u64, file_len: u64) -> Result<TensorInfo, String> {
        let format = format_of(self.kind)?;
        let width = self.dims.first().copied().unwrap_or(1);
        if !width.is_multiple_of(format.block_len()) {
            return Err(format!(
                "rows of {width} values do not divide into {format} blocks of {}",
                format.block_len()
            ));
        }
        let too_large = || format!("dimensions {:?} are impossibly large", self.dims);
        let rows = self
            .dims
            .iter()
            .skip(1)
            .try_fold(1u64, |product, &n| product.checked_mul(n))
            .ok_or_else(too_large)?;
        let len = (width / format.block_len())
            .checked_mul(format.block_bytes())
            .and_then(|row| row.checked_mul(rows))
            .ok_or_else(too_large)?;
        let start = data_start.checked_add(self.offset).ok_or_else(too_large)?;
        let end = start.checked_add(len).ok_or_else(too_large)?;
        if end > file_len {
            return Err(format!(
                "lies at bytes {start} to {end} of a file of {file_len}; the file is cut off, \
                 fetch it again"
            ));
        }
        let to_usize = |n: u64| usize::try_from(n).map_err(|_| too_large());
        Ok(TensorInfo {
            format,
            range: to_usize(start)?..to_usize(end)?,
            shape: self.dims.into_iter().rev().collect(),
        })
    }
}

/// ggml's numbers of tensor types.
fn format_of(kind: u32) -> Result<TensorFormat, String> {
    Ok(match kind {
        0 => TensorFormat::F32,
        1 => TensorFormat::F16,
        2 => TensorFormat::Q4_0,
        3 => TensorFormat::Q4_1,
        6 => TensorFormat::Q5_0,
        7 => TensorFormat::Q5_1,
        8 => TensorFormat::Q8_0,
        10 => TensorFormat::Q2K,
        11 => TensorFormat::Q3K,
        12 => TensorFormat::Q4K,
        13 => TensorFormat::Q5K,
        14 => TensorFormat::Q6K,
        30 => TensorFormat::BF16,
        other => {
            let name = match other {
                16 => "iq2_xxs",
                17 => "iq2_xs",
                18 => "iq3_xxs",
                19 => "iq1_s",
                20 => "iq4_nl",
                21 => "iq3_s",
                22 => "iq2_s",
                23 => "iq4_xs",
                29 => "iq1_m",
                34 => "tq1_0",
                35 => "tq2_0",
                39 => "mxfp4",
                _ => "unknown",
            };
            let known = TensorFormat::ALL.map(TensorFormat::name).join(", ");
            return Err(format!(
                "is of type {other} ({name}); supported are {known}. Take another \
                 quantisation of the model"
            ));
        }
    })
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn take(&mut self, len: u64) -> Result<&'a [u8], HeaderError> {
        let left = &self.bytes[self.at..];
        let taken = usize::try_from(len).ok().and_then(|len| left.get(..len));
        match taken {
            Some(taken) => {
                self.at += taken.len();
                Ok(taken)
            }
            None => Err(format!(
                "the header wants {len} bytes at {} of a file of {}; the file is cut off or \
                 damaged, fetch it again",
                self.at,
                self.bytes.len()
            )
            .into()),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], HeaderError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N as u64)?);
        Ok(out)
    }

    fn u32(&mut self) -> Result<u32, HeaderError> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, HeaderError> {
        self.array().map(u64::from_le_bytes)
    }

    fn text(&mut self) -> Result<String, HeaderError> {
        let len = self.u64()?;
        Ok(String::from_utf8_lossy(self.take(len)?).into_owned())
    }

    fn tensor(&mut self) -> Result<(String, RawTensor), HeaderError> {
        let name = self.text()?;
        let dims = self.u32()?;
        if dims > MAX_DIMS {
            return Err(HeaderError {
                tensor: Some(name),
                message: format!("has {dims} dimensions, at most {MAX_DIMS} are possible"),
            });
        }
        let dims = (0..dims).map(|_| self.u64()).collect::<Result<_, _>>()?;
        let kind = self.u32()?;
        let offset = self.u64()?;
        Ok((name, RawTensor { dims, kind, offset }))
    }

    fn value(&mut self, kind: u32, depth: u32) -> Result<Value, HeaderError> {
        let signed = |n: i64| u64::try_from(n).map_or(Value::Negative(n), Value::Uint);
        Ok(match kind {
            0 => Value::Uint(u8::from_le_bytes(self.array()?).into()),
            1 => signed(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Uint(u16::from_le_bytes(self.array()?).into()),
            3 => signed(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Uint(self.u32()?.into()),
            5 => signed(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            7 => Value::Bool(self.array::<1>()? != [0]),
            8 => Value::Text(self.text()?),
            9 => {
                let kind = self.u32()?;
                let len = self.u64()?;
                let at = self.at;
                self.skip_array(kind, len, depth)?;
                Value::Array(Array { kind, len, at })
            }
            10 => Value::Uint(self.u64()?),
            11 => signed(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("metadata of unknown type {other}").into()),
        })
    }

    fn skip_array(&mut self, kind: u32, len: u64, depth: u32) -> Result<(), HeaderError> {
        let element = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            8 => {
                for _ in 0..len {
                    let len = self.u64()?;
                    self.take(len)?;
                }
                return Ok(());
            }
            9 if depth < MAX_DEPTH => {
                for _ in 0..len {
                    let kind = self.u32()?;
                    let len = self.u64()?;
                    self.skip_array(kind, len, depth + 1)?;
                }
                return Ok(());
            }
            9 => return Err("arrays are nested too deeply".into()),
            other => return Err(format!("an array of unknown type {other}").into()),
        };
        self.take(len.saturating_mul(element)).map(|_| ())
    }
}
