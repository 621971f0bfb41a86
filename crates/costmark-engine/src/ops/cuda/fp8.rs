//! The peak of products of 8-bit floats (e4m3), with sums in f32 and bf16 coming out: what
//! cuBLASLt makes of them, since candle has no such product. Its tensor cores came with compute
//! capability 8.9.
//!
//! What was timed is checked: some of the elements are compared with sums made on the host.
#![allow(unsafe_code)]

use std::ffi::c_void;

use candle_core::Device;
use candle_core::cuda_backend::cudarc::cublaslt::result::{self, CublasError};
use candle_core::cuda_backend::cudarc::cublaslt::sys;
use candle_core::cuda_backend::cudarc::driver::{CudaSlice, sys::CUdevice_attribute};
use half::bf16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::peaks::{PRODUCTS, matrix_side, timed};
use super::{address, kernels};
use crate::error::{EngineError, Result};

/// What cuBLASLt may use beside the matrices; NVIDIA recommends 32 MiB for Hopper.
const WORKSPACE_BYTES: usize = 32 << 20;
/// Elements of the result that are checked.
const CHECKED: usize = 16;
/// `10 · major + minor` of the first GPUs that multiply such numbers.
const LEAST_CAPABILITY: i32 = 89;

/// FLOP/s of the single passes.
pub(crate) fn measure(device: &Device) -> Result<Vec<f64>> {
    let cuda = device.as_cuda_device()?;
    let stream = cuda.cuda_stream();
    let attribute = |which| {
        stream
            .context()
            .attribute(which)
            .map_err(|error| kernels::driver_error("compute capability", error))
    };
    let major = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    if 10 * major + minor < LEAST_CAPABILITY {
        return Err(EngineError::Run(format!(
            "the GPU is of compute capability {major}.{minor}, and 8.9 is the first that multiplies \
             them"
        )));
    }
    let side = matrix_side(device);
    let (a, b) = (random(side, 1), random(side, 2));
    let product = Product {
        a: cuda.clone_htod(&a)?,
        b: cuda.clone_htod(&b)?,
        out: cuda.alloc_zeros::<bf16>(side * side)?,
        workspace: cuda.alloc_zeros::<u8>(WORKSPACE_BYTES)?,
    };
    // cuBLASLt computes on whatever GPU the calling thread is bound to.
    stream
        .context()
        .bind_to_thread()
        .map_err(|error| kernels::driver_error("the GPU's context", error))?;
    let prepared = Prepared::new(side).map_err(refused)?;
    let pointers = Pointers {
        a: address(&product.a, cuda),
        b: address(&product.b, cuda),
        out: address(&product.out, cuda),
        workspace: address(&product.workspace, cuda),
        stream: stream.cu_stream().cast(),
    };
    let flops = 2.0 * (side as f64).powi(3) * PRODUCTS as f64;
    let rates = timed(cuda, flops, || {
        (0..PRODUCTS)
            .try_for_each(|_| prepared.launch(&pointers))
            .map_err(refused)
    })?;
    let first = cuda.clone_dtoh(&product.out.slice(..CHECKED * side))?;
    check(&a, &b, &first, side)?;
    Ok(rates)
}

fn refused(error: CublasError) -> EngineError {
    EngineError::Run(format!(
        "cuBLASLt refuses products of e4m3 numbers: {error}"
    ))
}

/// Memory of `out = aᵀ · b`, all `(side, side)` with columns one after the other.
struct Product {
    a: CudaSlice<u8>,
    b: CudaSlice<u8>,
    out: CudaSlice<bf16>,
    workspace: CudaSlice<u8>,
}

/// Where the memory is.
struct Pointers {
    a: u64,
    b: u64,
    out: u64,
    workspace: u64,
    stream: sys::cudaStream_t,
}

/// One of cuBLASLt's objects, given back in the end.
struct Object<T: Copy> {
    it: T,
    give_back: unsafe fn(T) -> Result<(), CublasError>,
}

impl<T: Copy> Drop for Object<T> {
    fn drop(&mut self) {
        // SAFETY: it came from the call that belongs to this one, and nobody else has it. What
        // cannot be given back is lost; there is nothing else to do.
        let _ = unsafe { (self.give_back)(self.it) };
    }
}

/// A product, ready to be launched.
struct Prepared {
    library: Object<sys::cublasLtHandle_t>,
    product: Object<sys::cublasLtMatmulDesc_t>,
    factor: Object<sys::cublasLtMatrixLayout_t>,
    out: Object<sys::cublasLtMatrixLayout_t>,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

impl Prepared {
    /// Asks for the algorithm that the library holds to be the fastest.
    fn new(side: usize) -> Result<Self, CublasError> {
        let library = Object {
            it: result::create_handle()?,
            give_back: result::destroy_handle,
        };
        let product = Object {
            it: result::create_matmul_desc(
                sys::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                sys::cudaDataType_t::CUDA_R_32F,
            )?,
            give_back: result::destroy_matmul_desc,
        };
        let layout = |of| -> Result<_, CublasError> {
            Ok(Object {
                it: result::create_matrix_layout(of, side as u64, side as u64, side as i64)?,
                give_back: result::destroy_matrix_layout,
            })
        };
        let factor = layout(sys::cudaDataType_t::CUDA_R_8F_E4M3)?;
        let out = layout(sys::cudaDataType_t::CUDA_R_16BF)?;
        let preference = Object {
            it: result::create_matmul_pref()?,
            give_back: result::destroy_matmul_pref,
        };
        // The left side transposed, the right one as it lies: the only way for 8-bit floats on
        // Hopper.
        for (which, transposed) in [
            (
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSA,
                1i32,
            ),
            (
                sys::cublasLtMatmulDescAttributes_t::CUBLASLT_MATMUL_DESC_TRANSB,
                0,
            ),
        ] {
            let (value, size) = ((&raw const transposed).cast::<c_void>(), size_of::<i32>());
            // SAFETY: the object lives, and the attribute is of 32 bits, read before this returns.
            unsafe { result::set_matmul_desc_attribute(product.it, which, value, size) }?;
        }
        let bytes = WORKSPACE_BYTES as u64;
        // SAFETY: the object lives, and the attribute is of 64 bits, read before this returns.
        unsafe {
            result::set_matmul_pref_attribute(
                preference.it,
                sys::cublasLtMatmulPreferenceAttributes_t::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                (&raw const bytes).cast(),
                size_of::<u64>(),
            )
        }?;
        // SAFETY: all objects live; none is kept.
        let found = unsafe {
            result::get_matmul_algo_heuristic(
                library.it,
                product.it,
                factor.it,
                factor.it,
                out.it,
                out.it,
                preference.it,
            )
        }?;
        Ok(Self {
            library,
            product,
            factor,
            out,
            algorithm: found.algo,
        })
    }

    fn launch(&self, at: &Pointers) -> Result<(), CublasError> {
        let (one, zero) = (1f32, 0f32);
        // SAFETY: all objects live, the memory is as large as the layouts say and the workspace as
        // the preference did; factors on the host are read before this returns.
        unsafe {
            result::matmul(
                self.library.it,
                self.product.it,
                (&raw const one).cast(),
                (&raw const zero).cast(),
                at.a as *const c_void,
                self.factor.it,
                at.b as *const c_void,
                self.factor.it,
                at.out as *const c_void,
                self.out.it,
                at.out as *mut c_void,
                self.out.it,
                &raw const self.algorithm,
                at.workspace as *mut c_void,
                WORKSPACE_BYTES,
                at.stream,
            )
        }
    }
}

/// A matrix of numbers below 2, of both signs and of all such exponents.
fn random(side: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; side * side];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    for byte in &mut bytes {
        // Without the exponent's highest bit none is NaN, and sums stay far from any limit.
        *byte &= 0b1011_1111;
    }
    bytes
}

/// The value of an e4m3 number (Micikevicius and others, 2022): sign, four bits of exponent with a
/// bias of 7, three of mantissa; no infinity, and one NaN of each sign.
fn e4m3(bits: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f64::from(bits & 7) / 8.0);
    let size = match (exponent, bits & 7) {
        (15, 7) => f64::NAN,
        (0, _) => mantissa * 2f64.powi(-6),
        _ => (1.0 + mantissa) * 2f64.powi(exponent - 7),
    };
    if bits >> 7 == 1 { -size } else { size }
}

/// Elements (i, i) of `aᵀ · b` against sums in f64. `out` holds the first columns.
fn check(a: &[u8], b: &[u8], out: &[bf16], side: usize) -> Result<()> {
    for i in 0..CHECKED {
        let column = i * side..(i + 1) * side;
        let terms = a[column.clone()].iter().zip(&b[column]);
        let (mut should, mut sizes) = (0.0, 0.0);
        for (x, y) in terms {
            let term = e4m3(*x) * e4m3(*y);
            should += term;
            sizes += term.abs();
        }
        let is = f64::from(out[i * side + i]);
        // Tensor cores round partial sums of 8-bit floats to some 14 bits, and bf16 has 8.
        let tolerance = sizes / 200.0 + should.abs() / 100.0;
        // Not of what is NaN.
        let is_near = (is - should).abs() <= tolerance;
        if !is_near {
            return Err(EngineError::Run(format!(
                "cuBLASLt's product of e4m3 numbers is wrong: element ({i}, {i}) is {is}, not \
                 {should}"
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_format() {
        for (bits, value) in [
            (0x00, 0.0),
            (0x01, 2f64.powi(-9)),
            (0x08, 2f64.powi(-6)),
            (0x38, 1.0),
            (0x3c, 1.5),
            (0xb8, -1.0),
            (0x3f, 1.875),
            (0x7e, 448.0),
        ] {
            assert_eq!(e4m3(bits), value, "{bits:#x}");
        }
        assert!(e4m3(0x7f).is_nan() && e4m3(0xff).is_nan());
        let bytes = random(64, 7);
        assert!(bytes.iter().all(|&byte| e4m3(byte).abs() < 2.0));
        assert!(bytes.iter().any(|&byte| e4m3(byte) < -1.0));
        assert_ne!(bytes, random(64, 8));
    }

    #[test]
    fn a_wrong_product_is_found() {
        let side = 64;
        let (a, b) = (random(side, 1), random(side, 2));
        let dot = |i: usize, j: usize| -> f64 {
            let pairs = (0..side).map(|k| e4m3(a[i * side + k]) * e4m3(b[j * side + k]));
            pairs.sum()
        };
        let product = |swapped: bool| -> Vec<bf16> {
            let at = |column: usize, row: usize| match swapped {
                true => dot(row, (column + 1) % side),
                false => dot(row, column),
            };
            (0..CHECKED)
                .flat_map(|column| (0..side).map(move |row| (column, row)))
                .map(|(column, row)| bf16::from_f64(at(column, row)))
                .collect()
        };
        check(&a, &b, &product(false), side).unwrap();
        let error = check(&a, &b, &product(true), side).unwrap_err();
        assert!(error.to_string().contains("is wrong"), "{error}");
        let mut broken = product(false);
        broken[0] = bf16::NAN;
        assert!(check(&a, &b, &broken, side).is_err());
    }
}
