//! A command line as words.

/// Splits at space; what stands between `'` or between `"` stays together. There is no other syntax: a backslash is a
/// backslash, for some paths have them.
///
/// # Errors
/// What was expected.
pub(super) fn split(line: &str) -> Result<Vec<String>, &'static str> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in line.chars() {
        match quote {
            Some(end) if c == end => quote = None,
            Some(_) => word.get_or_insert_default().push(c),
            None if c == '\'' || c == '"' => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            None if c.is_whitespace() => words.extend(word.take()),
            None => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    if quote.is_some() { Err("quotes that are closed") } else { Ok(words) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_keep_words_together() {
        assert_eq!(split("python3  -u judge.py").unwrap(), ["python3", "-u", "judge.py"]);
        assert_eq!(split(r#"a 'b "c"' d"e f"g "" C:\x"#).unwrap(), ["a", "b \"c\"", "de fg", "", r"C:\x"]);
        assert_eq!(split(" \t").unwrap(), [""; 0]);
        assert_eq!(split("a 'b").unwrap_err(), "quotes that are closed");
    }
}
