//! The models without the batching, for comparing logits.

use candle_core::{Device, Tensor};

use super::LockstepOptions;
use super::model::Model;
use crate::error::Result;

/// A candle-transformers model that is asked for logits one sequence at a time.
pub struct Reference(Model);

impl Reference {
    /// Loads the model; batching options do not matter.
    ///
    /// # Errors
    /// As for [`LockstepBackend::start`](super::LockstepBackend::start).
    pub fn load(options: &LockstepOptions) -> Result<Self> {
        Ok(Self(Model::load(options)?))
    }

    /// Logits after the last of `tokens`, computed from scratch.
    ///
    /// # Errors
    /// When candle fails, e.g. on an id outside the vocabulary.
    pub fn logits(&mut self, tokens: &[u32]) -> Result<Vec<f32>> {
        self.0.net.clear();
        let input = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
        let logits = self.0.net.forward(&input, 0)?;
        Ok(logits.squeeze(0)?.to_vec1()?)
    }

    /// Where candle-transformers computes something else than the published model.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.0.notes
    }
}
