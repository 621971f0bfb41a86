//! Writing a conversation down the way a model was trained to read it.

use minijinja::{Environment, context};
use serde::Serialize;

const NAME: &str = "chat";

/// A model's chat template (Jinja), as it stands in its tokenizer's configuration.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

/// A template that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the chat template cannot be used: {0}")]
pub struct TemplateError(String);

/// One turn of a conversation.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Turn {
    pub(crate) role: String,
    pub(crate) content: String,
}

impl ChatTemplate {
    /// Reads a template. The two tokens are what it may put at beginning and end.
    ///
    /// # Errors
    /// It is no template.
    pub fn new(source: &str, bos_token: &str, eos_token: &str) -> Result<Self, TemplateError> {
        let mut environment = Environment::new();
        // Templates are written for Python: its methods on strings, its treatment of blocks.
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.add_function("raise_exception", |words: String| {
            Err::<String, _>(minijinja::Error::new(
                minijinja::ErrorKind::InvalidOperation,
                words,
            ))
        });
        environment
            .add_template_owned(NAME, source.to_owned())
            .map_err(|error| TemplateError(error.to_string()))?;
        Ok(Self {
            environment,
            bos_token: bos_token.to_owned(),
            eos_token: eos_token.to_owned(),
        })
    }

    pub(crate) fn write(&self, messages: &[Turn]) -> Result<String, TemplateError> {
        let template = self
            .environment
            .get_template(NAME)
            .map_err(|error| TemplateError(error.to_string()))?;
        template
            .render(context! {
                messages,
                add_generation_prompt => true,
                bos_token => self.bos_token,
                eos_token => self.eos_token,
            })
            .map_err(|error| TemplateError(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(role: &str, content: &str) -> Turn {
        Turn {
            role: role.into(),
            content: content.into(),
        }
    }

    #[test]
    fn a_template_as_models_have_it() {
        let source = "{{ bos_token }}{% for m in messages %}\n    \
                      {% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}\n\
                      <|{{ m.role }}|>{{ m['content'].strip() }}{{ eos_token }}\n\
                      {% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";
        let template = ChatTemplate::new(source, "<s>", "</s>").unwrap();
        let text = template
            .write(&[turn("user", " hi "), turn("user", "x")])
            .unwrap();
        assert_eq!(text, "<s><|user|>hi</s>\n<|user|>x</s>\n<|assistant|>");
        let error = template.write(&[turn("system", "x")]).unwrap_err();
        assert!(error.to_string().contains("no system"));
        assert!(ChatTemplate::new("{% for %}", "", "").is_err());
    }
}
