//! The way out of a mistyped name, and where it stands in a file.

/// Similarity from which a name is worth suggesting.
const SIMILAR: f64 = 0.75;

/// `, did you mean …?`, or nothing where no name is close.
pub(crate) fn nearest(typed: &str, names: &[&str]) -> String {
    let closest = names
        .iter()
        .map(|name| (strsim::jaro_winkler(typed, name), name))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match closest {
        Some((similarity, name)) if similarity >= SIMILAR => {
            format!(", did you mean `{name}`?")
        }
        _ => String::new(),
    }
}

/// Line, from 1, of a byte offset.
pub(crate) fn line_of(content: &str, offset: usize) -> usize {
    let until = offset.min(content.len());
    content.as_bytes()[..until]
        .iter()
        .filter(|&&byte| byte == b'\n')
        .count()
        + 1
}

/// What is wrong with a TOML file: file, line, reason, and the nearest key for one that is
/// not known.
pub(crate) fn toml_error(name: &str, content: &str, error: &toml::de::Error) -> String {
    let line = error.span().map_or(1, |span| line_of(content, span.start));
    let message = error.message();
    // "unknown field `a`, expected one of `b`, `c`": the names stand between backticks.
    let names: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let hint = match names.split_first() {
        Some((typed, known)) if message.starts_with("unknown field") => nearest(typed, known),
        _ => String::new(),
    };
    format!("{name}:{line}: {message}{hint}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_close_names_are_suggested() {
        let names = ["chat", "code-completion", "rag"];
        assert_eq!(nearest("chta", &names), ", did you mean `chat`?");
        assert_eq!(
            nearest("code-complete", &names),
            ", did you mean `code-completion`?"
        );
        assert_eq!(nearest("video", &names), "");
    }
}
