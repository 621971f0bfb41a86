//! Text from outside, made harmless: names of models, hosts and files may hold anything.

/// `text` with control characters (line breaks aside), and those that turn the direction of
/// writing or cannot be seen, replaced by `�`. What is left cannot move a terminal's cursor,
/// colour it, or show words in an order they do not have.
#[must_use]
pub fn inert(text: &str) -> String {
    text.chars()
        .map(|c| if c != '\n' && acts(c) { '\u{fffd}' } else { c })
        .collect()
}

/// The same on one line.
#[must_use]
pub fn inert_line(text: &str) -> String {
    text.chars()
        .map(|c| if acts(c) { '\u{fffd}' } else { c })
        .collect()
}

fn acts(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{061c}'
                | '\u{200b}'..='\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e007f}'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_acts_is_taken_out_and_what_reads_is_kept() {
        assert_eq!(
            inert("a\u{1b}[31mb\nc\u{202e}d"),
            "a\u{fffd}[31mb\nc\u{fffd}d"
        );
        assert_eq!(inert_line("a\r\nb\u{9b}"), "a\u{fffd}\u{fffd}b\u{fffd}");
        let plain = "Qwen3-0.6B – 4 × Zen 3, 日本語, العربية";
        assert_eq!(inert(plain), plain);
    }
}
