//! Our CUDA kernels: compiled by NVRTC when an engine starts, launched with typed arguments.
//!
//! The text needs no header, so NVRTC and a driver are all a machine must have. It is compiled
//! to PTX for the least GPU that is supported; the driver translates it for the one at hand.
#![allow(unsafe_code)]

use std::sync::Arc;

use candle_core::cuda_backend::cudarc::driver::{
    CudaFunction, CudaStream, DeviceRepr, LaunchConfig, PushKernelArg,
};
use candle_core::cuda_backend::cudarc::nvrtc::{CompileOptions, Ptx, compile_ptx_with_opts};
use candle_core::{CudaDevice, DType};

use crate::error::{EngineError, Result};
use crate::ops::AttentionShape;

/// The kernels as one text; see the comments in its parts.
const SOURCE: &str = concat!(
    include_str!("kernels/numbers.cuh"),
    include_str!("kernels/attention.cu"),
    include_str!("kernels/steps.cu"),
    include_str!("kernels/sample.cu")
);

/// `WARPS · 32` of `attention.cu`.
const ATTENTION_THREADS: u32 = 128;
/// Rows of queries a block of `attend_prompts` works on.
pub(super) const PROMPT_ROWS: usize = 64;
/// Keys a block of `attend_decode` takes per round.
pub(super) const DECODE_ROUND: usize = 128;
/// Threads of kernels that walk over a row or an array.
pub(super) const ROW_THREADS: u32 = 256;

/// `Shape` of `attention.cu`.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub(super) struct Shape {
    heads: i32,
    kv_heads: i32,
    block_size: i32,
    window: i32,
    scale: f32,
}

// SAFETY: five plain numbers, laid out as the kernels' struct.
unsafe impl DeviceRepr for Shape {}

impl Shape {
    pub(super) fn new(shape: &AttentionShape, block_size: usize) -> Self {
        Self {
            heads: int(shape.heads),
            kv_heads: int(shape.kv_heads),
            block_size: int(block_size),
            // Far beyond any context, and no overflow when a position is taken off.
            window: shape.window.map_or(1 << 30, int).min(1 << 30),
            // The kernels take powers of two.
            scale: shape.scale() * std::f32::consts::LOG2_E,
        }
    }

    /// Head groups of at most 16 that share a key head.
    fn row_tiles(&self) -> u32 {
        (self.heads / self.kv_heads).unsigned_abs().div_ceil(16)
    }
}

/// Sizes were checked against the configuration's bounds long before.
pub(super) fn int(n: usize) -> i32 {
    i32::try_from(n).unwrap_or(i32::MAX)
}

/// An address on the device. What it points to must outlive the launch's place in the stream,
/// which stream-ordered frees see to.
pub(super) type Pointer = u64;

/// Compiled for one head size and two number types.
pub(super) struct Kernels {
    stream: Arc<CudaStream>,
    attend_prompts: CudaFunction,
    attend_decode: CudaFunction,
    join_splits: CudaFunction,
    add_norm: CudaFunction,
    silu_mul: CudaFunction,
    rotations: CudaFunction,
    prepare: CudaFunction,
    greatest: CudaFunction,
    draw_tokens: CudaFunction,
}

/// Arguments of `attend_prompts` and `attend_decode` that say where things are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attending {
    pub(super) q: Pointer,
    pub(super) keys: Pointer,
    pub(super) values: Pointer,
    pub(super) tables: Pointer,
    pub(super) spans: Pointer,
    pub(super) out: Pointer,
    pub(super) shape: Shape,
}

/// Columns of a matrix that may have more of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Columns {
    pub(super) at: Pointer,
    /// How many numbers apart rows begin.
    pub(super) row: i32,
}

/// Arguments of `prepare`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Preparing {
    pub(super) q: Columns,
    pub(super) k: Columns,
    pub(super) v: Columns,
    /// Norms' weights, 0 for none.
    pub(super) norms: (Pointer, Pointer),
    pub(super) rotations: Pointer,
    pub(super) slots: Pointer,
    pub(super) q_out: Pointer,
    pub(super) keys: Pointer,
    pub(super) values: Pointer,
    pub(super) head_dim: usize,
    pub(super) eps: f32,
}

impl Kernels {
    /// Compiles and loads them. `kv_bf16`: the cache holds bf16 instead of f16; `activations`:
    /// f32, f16 or bf16.
    pub(super) fn new(
        device: &CudaDevice,
        head_dim: usize,
        kv_bf16: bool,
        activations: DType,
    ) -> Result<Self> {
        if !head_dim.is_multiple_of(16) || !(16..=256).contains(&head_dim) {
            return Err(EngineError::Option(format!(
                "the model's heads are {head_dim} wide; on GPUs multiples of 16 up to 256 are \
                 supported: use --device cpu"
            )));
        }
        let stream = device.cuda_stream();
        let macros = [
            ("HEAD_DIM", head_dim),
            ("KV_BF16", usize::from(kv_bf16)),
            ("ACT", activation_number(activations)?),
        ];
        let module = stream
            .context()
            .load_module(compile(SOURCE, &macros)?)
            .map_err(not_loaded)?;
        let function = |name: &str| {
            module
                .load_function(name)
                .map_err(|error| driver_error(name, error))
        };
        Ok(Self {
            attend_prompts: function("attend_prompts")?,
            attend_decode: function("attend_decode")?,
            join_splits: function("join_splits")?,
            add_norm: function("add_norm")?,
            silu_mul: function("silu_mul")?,
            rotations: function("rotations")?,
            prepare: function("prepare")?,
            greatest: function("greatest")?,
            draw_tokens: function("draw_tokens")?,
            stream,
        })
    }

    /// `(tiles, kv_heads)` blocks; `tiles` points to pairs (span, first row).
    pub(super) fn attend_prompts(&self, a: &Attending, tiles: Pointer, count: usize) -> Result<()> {
        let grid = (count as u32, a.shape.kv_heads.unsigned_abs(), 1);
        let mut launch = self.stream.launch_builder(&self.attend_prompts);
        launch.arg(&a.q).arg(&a.keys).arg(&a.values).arg(&a.tables);
        launch.arg(&a.spans).arg(&tiles).arg(&a.out).arg(&a.shape);
        // SAFETY: the order and types of the kernel's parameters; pointers cover its grid.
        unsafe { launch.launch(config(grid, (ATTENTION_THREADS, 1))) }
            .map_err(|error| driver_error("attend_prompts", error))?;
        Ok(())
    }

    /// `spans` sequences that decode one token each. With several splits `parts` are room for
    /// sums `(spans, heads, splits, head_dim)` and weights `(spans, heads, splits, 2)` in f32.
    pub(super) fn attend_decode(
        &self,
        a: &Attending,
        spans: usize,
        splits: usize,
        parts: (Pointer, Pointer),
    ) -> Result<()> {
        let heads = a.shape.heads;
        let tiles = a.shape.kv_heads.unsigned_abs() * a.shape.row_tiles();
        let mut launch = self.stream.launch_builder(&self.attend_decode);
        launch.arg(&a.q).arg(&a.keys).arg(&a.values).arg(&a.tables);
        launch.arg(&a.spans).arg(&a.out).arg(&parts.0).arg(&parts.1);
        launch.arg(&a.shape);
        let grid = (spans as u32, tiles, splits as u32);
        // SAFETY: the order and types of the kernel's parameters; pointers cover its grid.
        unsafe { launch.launch(config(grid, (ATTENTION_THREADS, 1))) }
            .map_err(|error| driver_error("attend_decode", error))?;
        if splits == 1 {
            return Ok(());
        }
        let splits = int(splits);
        let mut launch = self.stream.launch_builder(&self.join_splits);
        launch.arg(&parts.0).arg(&parts.1).arg(&a.spans).arg(&a.out);
        launch.arg(&heads).arg(&splits);
        let grid = (spans as u32, heads.unsigned_abs(), 1);
        // SAFETY: as above.
        unsafe { launch.launch(config(grid, (64, 1))) }
            .map_err(|error| driver_error("join_splits", error))?;
        Ok(())
    }

    /// `rows` rows of `width`; `delta` 0 for none.
    pub(super) fn add_norm(
        &self,
        inputs: [Pointer; 3],
        outputs: [Pointer; 2],
        (rows, width): (usize, usize),
        eps: f32,
    ) -> Result<()> {
        let [residual, delta, weight] = inputs;
        let [sum, normed] = outputs;
        let width = int(width);
        let mut launch = self.stream.launch_builder(&self.add_norm);
        launch.arg(&residual).arg(&delta).arg(&weight);
        launch.arg(&sum).arg(&normed).arg(&width).arg(&eps);
        // SAFETY: the order and types of the kernel's parameters; pointers hold rows × width.
        unsafe { launch.launch(config((rows as u32, 1, 1), (ROW_THREADS, 1))) }
            .map_err(|error| driver_error("add_norm", error))?;
        Ok(())
    }

    /// `rows` rows of `width` activations each.
    pub(super) fn silu_mul(
        &self,
        gate: Columns,
        up: Columns,
        out: Pointer,
        (rows, width): (usize, usize),
    ) -> Result<()> {
        let blocks = (width as u32).div_ceil(ROW_THREADS);
        let width = int(width);
        let mut launch = self.stream.launch_builder(&self.silu_mul);
        launch.arg(&gate.at).arg(&up.at).arg(&out).arg(&width);
        launch.arg(&gate.row).arg(&up.row);
        // SAFETY: the order and types of the kernel's parameters; pointers hold rows × width.
        unsafe { launch.launch(config((rows as u32, blocks, 1), (ROW_THREADS, 1))) }
            .map_err(|error| driver_error("silu_mul", error))?;
        Ok(())
    }

    /// Room for `(tokens, 2, pairs)` f32 in `out`.
    pub(super) fn rotations(
        &self,
        positions: Pointer,
        frequencies: Pointer,
        out: Pointer,
        (tokens, pairs): (usize, usize),
    ) -> Result<()> {
        let count = int(pairs);
        let mut launch = self.stream.launch_builder(&self.rotations);
        launch
            .arg(&positions)
            .arg(&frequencies)
            .arg(&out)
            .arg(&count);
        // SAFETY: the order and types of the kernel's parameters; pointers cover its grid.
        unsafe { launch.launch(config((tokens as u32, 1, 1), (pairs as u32, 1))) }
            .map_err(|error| driver_error("rotations", error))?;
        Ok(())
    }

    /// Of `tokens` tokens.
    pub(super) fn prepare(&self, p: &Preparing, shape: &Shape, tokens: usize) -> Result<()> {
        /// Heads per block.
        const HEADS: u32 = 4;
        let heads = (shape.heads + 2 * shape.kv_heads).unsigned_abs();
        let head_dim = int(p.head_dim);
        let mut launch = self.stream.launch_builder(&self.prepare);
        launch.arg(&p.q.at).arg(&p.k.at).arg(&p.v.at);
        launch.arg(&p.norms.0).arg(&p.norms.1).arg(&p.rotations);
        launch
            .arg(&p.slots)
            .arg(&p.q_out)
            .arg(&p.keys)
            .arg(&p.values);
        launch.arg(&p.q.row).arg(&p.k.row).arg(&p.v.row);
        launch.arg(&shape.heads).arg(&shape.kv_heads).arg(&head_dim);
        launch.arg(&shape.block_size).arg(&p.eps);
        let grid = (tokens as u32, heads.div_ceil(HEADS), 1);
        // SAFETY: the order and types of the kernel's parameters; slots lie in the cache.
        unsafe { launch.launch(config(grid, (32, HEADS))) }
            .map_err(|error| driver_error("prepare", error))?;
        Ok(())
    }

    /// Room for `(rows, 2)` u32 in `out`.
    pub(super) fn greatest(
        &self,
        logits: Pointer,
        out: Pointer,
        (rows, vocab): (usize, usize),
    ) -> Result<()> {
        let vocab = int(vocab);
        let mut launch = self.stream.launch_builder(&self.greatest);
        launch.arg(&logits).arg(&out).arg(&vocab);
        // SAFETY: the order and types of the kernel's parameters; pointers cover its grid.
        unsafe { launch.launch(config((rows as u32, 1, 1), (1024, 1))) }
            .map_err(|error| driver_error("greatest", error))?;
        Ok(())
    }

    /// `draws` are `(rows, 2)` f64, `out` is as [`greatest`](Self::greatest) left it.
    pub(super) fn draw_tokens(
        &self,
        logits: Pointer,
        draws: Pointer,
        out: Pointer,
        (rows, vocab): (usize, usize),
    ) -> Result<()> {
        let vocab = int(vocab);
        let mut launch = self.stream.launch_builder(&self.draw_tokens);
        launch.arg(&logits).arg(&draws).arg(&out).arg(&vocab);
        // SAFETY: the order and types of the kernel's parameters; pointers cover its grid.
        unsafe { launch.launch(config((rows as u32, 1, 1), (1024, 1))) }
            .map_err(|error| driver_error("draw_tokens", error))?;
        Ok(())
    }
}

/// `ACT` of `numbers.cuh`.
pub(super) fn activation_number(dtype: DType) -> Result<usize> {
    match dtype {
        DType::F32 => Ok(0),
        DType::F16 => Ok(1),
        DType::BF16 => Ok(2),
        other => Err(EngineError::Run(format!(
            "{other:?} is no type of activations"
        ))),
    }
}

/// PTX of a text for every GPU that is supported.
pub(super) fn compile(source: &str, macros: &[(&str, usize)]) -> Result<Ptx> {
    let define = |(name, value): &(&str, usize)| format!("--define-macro={name}={value}");
    let fixed = ["--gpu-architecture=compute_80", "--std=c++17"].map(String::from);
    let options = CompileOptions {
        options: fixed.into_iter().chain(macros.iter().map(define)).collect(),
        ..CompileOptions::default()
    };
    compile_ptx_with_opts(source, options)
        .map_err(|error| EngineError::Run(format!("NVRTC does not compile the kernels: {error}")))
}

pub(super) fn not_loaded(error: impl std::fmt::Debug) -> EngineError {
    EngineError::Run(format!(
        "the driver does not load the kernels ({error:?}): it may be older than NVRTC; update it"
    ))
}

pub(super) fn config(grid_dim: (u32, u32, u32), (x, y): (u32, u32)) -> LaunchConfig {
    LaunchConfig {
        grid_dim,
        block_dim: (x, y, 1),
        shared_mem_bytes: 0,
    }
}

pub(super) fn driver_error(what: &str, error: impl std::fmt::Debug) -> EngineError {
    EngineError::Run(format!("CUDA, {what}: {error:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs NVRTC, which a CUDA build comes with, but no GPU.
    #[test]
    fn nvrtc_compiles_the_kernels_without_a_header() {
        for head_dim in [64, 80, 96, 128, 256] {
            let macros = [("HEAD_DIM", head_dim), ("KV_BF16", 1), ("ACT", 2)];
            let ptx = compile(SOURCE, &macros).unwrap().to_src();
            for name in [
                "attend_prompts",
                "attend_decode",
                "join_splits",
                "add_norm",
                "silu_mul",
                "rotations",
                "prepare",
                "greatest",
                "draw_tokens",
                "random_weights",
                "read_all",
            ] {
                assert!(ptx.contains(&format!(".entry {name}(")), "{name}");
            }
            assert!(ptx.contains(".target sm_80"));
        }
    }

    /// PTX names each parameter with its type: what `launch` is given must be laid out so.
    #[test]
    fn arguments_are_laid_out_as_the_kernels_take_them() {
        let macros = [("HEAD_DIM", 128), ("KV_BF16", 0), ("ACT", 0)];
        let ptx = compile(SOURCE, &macros).unwrap().to_src();
        let parameters = |name: &str| {
            let begin = ptx.find(&format!(".entry {name}(")).unwrap();
            let text = &ptx[begin..begin + ptx[begin..].find(')').unwrap()];
            text.lines()
                .filter_map(|line| line.trim().strip_prefix(".param "))
                .map(|line| {
                    let words: Vec<&str> = line.trim_end_matches(',').split(' ').collect();
                    match words.as_slice() {
                        [".align", "4", ".b8", name] => {
                            format!("{}@4", &name[name.find('[').unwrap()..])
                        }
                        words => words[0].to_string(),
                    }
                })
                .collect::<Vec<_>>()
                .join(" ")
        };
        let shape = format!("[{}]@{}", size_of::<Shape>(), align_of::<Shape>());
        assert_eq!(
            parameters("attend_prompts"),
            [".u64"; 7].join(" ") + " " + &shape
        );
        assert_eq!(
            parameters("attend_decode"),
            [".u64"; 8].join(" ") + " " + &shape
        );
        assert_eq!(parameters("join_splits"), ".u64 .u64 .u64 .u64 .u32 .u32");
        assert_eq!(parameters("add_norm"), ".u64 .u64 .u64 .u64 .u64 .u32 .f32");
        assert_eq!(parameters("silu_mul"), ".u64 .u64 .u64 .u32 .u32 .u32");
        assert_eq!(parameters("rotations"), ".u64 .u64 .u64 .u32");
        assert_eq!(
            parameters("prepare"),
            [".u64"; 10].join(" ") + &" .u32".repeat(7) + " .f32"
        );
        assert_eq!(parameters("greatest"), ".u64 .u64 .u32");
        assert_eq!(parameters("draw_tokens"), ".u64 .u64 .u64 .u32");
        assert_eq!(parameters("random_weights"), ".u64 .u64 .u64 .f32");
        assert_eq!(parameters("read_all"), ".u64 .u64 .u64");
    }
}
