//! Products with one matrix larger than the last-level cache, for several numbers of rows:
//! the engine's, and candle's with the same kind of blocks as the peer. Throughput counts
//! the bytes of the matrix once per product, so at one row it is the bandwidth reached.

use candle_core::quantized::{QMatMul, QTensor};
use candle_core::{Device, Module, Tensor};
use costmark_engine::weights::SyntheticWeights;
use costmark_engine::{FormatChoice, TensorFormat, WeightSource, builtin};
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};

const SHAPE: &str = "llama-3.1-8b";
const MATRIX: &str = "model.layers.0.mlp.gate_proj";
const FORMATS: [TensorFormat; 7] = [
    TensorFormat::Q8_0,
    TensorFormat::Q4_0,
    TensorFormat::Q4K,
    TensorFormat::Q5K,
    TensorFormat::Q6K,
    TensorFormat::BF16,
    TensorFormat::F16,
];
const ROWS: [usize; 5] = [1, 4, 8, 16, 256];

fn products(c: &mut Criterion) {
    let config = builtin::find(SHAPE)
        .expect("well-formed")
        .expect("built in");
    let (outputs, width) = (config.shape.intermediate_size, config.shape.hidden_size);
    for format in FORMATS {
        let choice = FormatChoice::All(format);
        let linear = SyntheticWeights::new(&config, choice, 1, &Device::Cpu)
            .linear(MATRIX, outputs, width, false)
            .expect("a matrix of this shape");
        let peer = (!format.is_float()).then(|| candle(&linear_values(outputs, width), format));
        let mut group = c.benchmark_group(format!("linear/{format}"));
        group.sample_size(10);
        group.throughput(Throughput::Bytes(linear.bytes()));
        for rows in ROWS {
            let x = Tensor::rand(-1f32, 1.0, (rows, width as usize), &Device::Cpu).expect("memory");
            group.bench_function(BenchmarkId::new("engine", rows), |b| {
                b.iter(|| linear.forward(&x).expect("shapes fit"));
            });
            if let Some(peer) = &peer {
                group.bench_function(BenchmarkId::new("candle", rows), |b| {
                    b.iter(|| peer.forward(&x).expect("shapes fit"));
                });
            }
        }
        group.finish();
    }
}

fn linear_values(outputs: u64, width: u64) -> Tensor {
    let shape = (outputs as usize, width as usize);
    Tensor::rand(-1f32, 1.0, shape, &Device::Cpu).expect("memory")
}

fn candle(values: &Tensor, format: TensorFormat) -> QMatMul {
    use candle_core::quantized::GgmlDType;
    let dtype = match format {
        TensorFormat::Q4_0 => GgmlDType::Q4_0,
        TensorFormat::Q4K => GgmlDType::Q4K,
        TensorFormat::Q5K => GgmlDType::Q5K,
        TensorFormat::Q6K => GgmlDType::Q6K,
        _ => GgmlDType::Q8_0,
    };
    let blocks = QTensor::quantize(values, dtype).expect("whole blocks");
    QMatMul::from_qtensor(blocks).expect("blocks")
}

criterion_group!(benches, products);
criterion_main!(benches);
