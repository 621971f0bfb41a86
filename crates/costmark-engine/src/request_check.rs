//! What every backend of this crate refuses of a request before it runs.

use costmark_core::Request;

/// Checks a request against a vocabulary and a context of so many tokens. `way_out` is what
/// to do about one that is too long.
///
/// # Errors
/// What is wrong with it, in words.
pub(crate) fn check(
    request: &Request,
    vocab_size: u64,
    max_context: u64,
    way_out: &str,
) -> Result<(), String> {
    if request.prompt.is_empty() {
        return Err("the prompt is empty: give at least one token".into());
    }
    if request.max_tokens == 0 {
        return Err("nothing to produce: ask for at least one output token".into());
    }
    let outside = |id: &&u32| u64::from(**id) >= vocab_size;
    if let Some(id) = request.prompt.iter().find(outside) {
        return Err(format!(
            "prompt token id {id} is outside the vocabulary of {vocab_size}: was the prompt \
             made with another model's tokenizer?"
        ));
    }
    let (prompt, output) = (request.prompt.len() as u64, u64::from(request.max_tokens));
    if prompt + output > max_context {
        return Err(format!(
            "{prompt} prompt and {output} output tokens are longer than the context of \
             {max_context}: {way_out}"
        ));
    }
    Ok(())
}
