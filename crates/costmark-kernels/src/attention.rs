//! Causal attention of some queries of a sequence over the keys and values of one head, with
//! a running softmax (Milakov and Gimelshein, 2018; Dao et al., 2022).
//!
//! Keys are visited in runs of [`RUN`] counted from position 0, and each sum is one chain of
//! fused multiply-adds in the order of keys or dimensions; so a token's result is the same
//! bits whether it came in one chunk or in many, alone or beside others, and on every
//! instruction set. Only matrix tiles round and sum up in another way, see `tiled`, of which
//! all but the last is as true. So which instructions a token meets must follow from what it
//! is, not from its company: see [`Isa::for_prompts`] and [`Isa::for_generated`].

mod head;
mod simd;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod tiled;

pub use self::head::{Block, Queries, Scratch};
pub use self::simd::{Element, LANES};

/// Keys that are scored before their values are summed.
pub const RUN: usize = 4 * LANES;

/// Which instructions run.
#[derive(Debug, Clone, Copy)]
pub struct Isa(Kind);

#[derive(Debug, Clone, Copy)]
enum Kind {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2(simd::avx2::Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(simd::avx512::Avx512),
    #[cfg(target_arch = "x86_64")]
    Amx(tiled::Amx, simd::avx512::Avx512),
}

impl Isa {
    /// The fastest for tokens of a prompt, many of which meet a key at a time.
    #[must_use]
    pub fn for_prompts() -> Self {
        Self::available().last().unwrap_or(Self(Kind::Portable))
    }

    /// The fastest for tokens that were generated one by one. Tiles would be nearly empty: with 16
    /// sequences vectors are 1.6 to 1.9 times as fast, and tiles 1.3 to 2.1 times with prompts
    /// (`examples/attention`, four runs, two threads of a Xeon).
    #[must_use]
    pub fn for_generated() -> Self {
        let vectors = Self::available().filter(|isa| !isa.has_tiles());
        vectors.last().unwrap_or(Self(Kind::Portable))
    }

    fn has_tiles(self) -> bool {
        match self.0 {
            #[cfg(target_arch = "x86_64")]
            Kind::Amx(..) => true,
            _ => false,
        }
    }

    /// All that this CPU has, the best last.
    pub fn available() -> impl Iterator<Item = Self> {
        #[cfg(target_arch = "x86_64")]
        let more = {
            let avx512 = simd::avx512::Avx512::detect();
            let amx = tiled::Amx::detect().zip(avx512);
            [
                simd::avx2::Avx2::detect().map(Kind::Avx2),
                avx512.map(Kind::Avx512),
                amx.map(|(amx, avx512)| Kind::Amx(amx, avx512)),
            ]
        };
        #[cfg(not(target_arch = "x86_64"))]
        let more = [None; 0];
        let all = std::iter::once(Kind::Portable).chain(more.into_iter().flatten());
        all.map(Self)
    }

    /// The name users see.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Kind::Avx512(_) => "avx512",
            #[cfg(target_arch = "x86_64")]
            Kind::Amx(..) => "amx",
        }
    }

    /// Whether queries and weights are rounded, to the sums of two bf16.
    #[cfg(test)]
    fn rounds<T: Element>(self) -> bool {
        self.has_tiles() && T::PARTS > 0
    }
}

/// Writes what `queries` see of the values to `out`, `(tokens, group, head_dim)` with
/// `out_stride` elements from token to token. `block` gives the blocks of the sequence.
#[allow(unsafe_code)]
pub fn attend<'a, T: Element>(
    isa: Isa,
    queries: &Queries<'_>,
    block: impl Fn(usize) -> Block<'a, T>,
    scratch: &mut Scratch,
    out: &mut [f32],
    out_stride: usize,
) {
    match isa.0 {
        Kind::Portable => {
            head::attend(
                simd::portable::Portable,
                queries,
                &block,
                scratch,
                out,
                out_stride,
            );
        }
        // SAFETY: the value exists only where the CPU has these instructions.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx2(avx2) => unsafe {
            on_avx2(avx2, queries, &block, scratch, out, out_stride);
        },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Amx(amx, _) if T::PARTS > 0 => unsafe {
            tiled::attend(amx, queries, &block, &mut scratch.tiled, out, out_stride);
        },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Kind::Avx512(avx512) | Kind::Amx(_, avx512) => unsafe {
            on_avx512(avx512, queries, &block, scratch, out, out_stride);
        },
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn on_avx2<'a, T: Element>(
    avx2: simd::avx2::Avx2,
    queries: &Queries<'_>,
    block: &impl Fn(usize) -> Block<'a, T>,
    scratch: &mut Scratch,
    out: &mut [f32],
    out_stride: usize,
) {
    head::attend(avx2, queries, block, scratch, out, out_stride);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx2,fma")]
fn on_avx512<'a, T: Element>(
    avx512: simd::avx512::Avx512,
    queries: &Queries<'_>,
    block: &impl Fn(usize) -> Block<'a, T>,
    scratch: &mut Scratch,
    out: &mut [f32],
    out_stride: usize,
) {
    head::attend(avx512, queries, block, scratch, out, out_stride);
}
