//! HTML that cannot be broken out of.

use std::fmt::Write as _;

use crate::text::inert_line;

/// `text` as text, in an element or in a quoted attribute.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in inert_line(text).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

/// Puts each value where `{{name}}` stands. Values are not looked through again.
pub(super) fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let (name, after) = after.split_once("}}").unwrap_or((after, ""));
        let value = values.iter().find(|(known, _)| *known == name);
        out.push_str(value.map_or("", |(_, value)| value));
        rest = after;
    }
    out.push_str(rest);
    out
}

/// A table. The first column names the row; the others are set right if they are figures, with
/// the head of a column of figures above them. Cells are text.
pub(super) fn table(caption: &str, head: &[&str], rows: &[Vec<String>]) -> String {
    let mut out = format!(
        "<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"{0}\"><table><caption>{0}</caption>",
        escaped(caption)
    );
    // Rows that name themselves need no head.
    let is_list = head.is_empty();
    if !is_list {
        out.push_str("<thead><tr>");
    }
    for (i, name) in head.iter().enumerate() {
        let cells = || rows.iter().filter_map(|row| row.get(i));
        let class = match i > 0 && cells().next().is_some() && cells().all(|c| is_figure(c)) {
            true => " class=\"figure\"",
            false => "",
        };
        let _ = write!(out, "<th scope=\"col\"{class}>{}</th>", escaped(name));
    }
    if !is_list {
        out.push_str("</tr></thead>");
    }
    out.push_str("<tbody>");
    for row in rows {
        out.push_str("<tr>");
        for (i, cell) in row.iter().enumerate() {
            let text = escaped(cell);
            let _ = match i {
                0 => write!(out, "<th scope=\"row\">{text}</th>"),
                _ if !is_list && is_figure(cell) => write!(out, "<td class=\"figure\">{text}</td>"),
                _ => write!(out, "<td>{text}</td>"),
            };
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
    out
}

fn is_figure(cell: &str) -> bool {
    cell.starts_with(|c: char| c.is_ascii_digit() || "$–-+≤≥".contains(c))
}

/// A place for a chart, what to see in it, and the same as a table.
pub(super) fn figure(id: &str, title: &str, summary: &str, table: &str) -> String {
    let (title, summary) = (escaped(title), escaped(summary));
    format!(
        "<figure id=\"{id}\"><h3 id=\"{id}-title\">{title}</h3>\
         <div class=\"plot\" role=\"img\" aria-labelledby=\"{id}-title {id}-summary\"></div>\
         <figcaption id=\"{id}-summary\">{summary}</figcaption>\
         <details><summary>The same as a table</summary>{table}</details></figure>"
    )
}

/// Something one click away. `body` is HTML.
pub(super) fn details(summary: &str, body: &str) -> String {
    format!(
        "<details><summary>{}</summary>{body}</details>",
        escaped(summary)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_breaks_out_and_nothing_is_filled_twice() {
        let evil = "</script><b onclick='x'>\"&\u{202e}\u{7}";
        let text = escaped(evil);
        assert!(!text.contains(['<', '>', '"', '\'', '\u{202e}', '\u{7}']));
        let filled = fill(
            "a {{x}} b {{y}} {{unknown}}c",
            &[("x", "{{y}}"), ("y", "Y")],
        );
        assert_eq!(filled, "a {{y}} b Y c");
    }
}
