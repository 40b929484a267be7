//! Which part of a rendered conversation the assistant says.
//!
//! Nothing is guessed from the text of a template. One that marks it with `{% generation %}` is taken at its word. Of
//! any other, the prompt before a turn is rendered as it is for an answer (`add_generation_prompt`), and the conversation
//! up to the turn's end as it is: what the second has beyond the first is what the model would have to say.
//!
//! Two things may come in between:
//!
//! - A template shows a turn otherwise once others follow it: Qwen3 takes the thinking out of earlier turns. So each turn
//!   is rendered as the last one, and only those that later ones leave as they are share a text with them. A conversation
//!   becomes several texts then, each as the model saw it when it was to answer.
//! - A template shows the *prompt* otherwise once it is answered: Mistral's system message stands in the last turn of the
//!   user only while that is unanswered, DeepSeek-R1's generation prompt opens a thought that is not shown later. Then
//!   the text is the prompt as it is for an answer, and from where the template writes the turn's content on, what it
//!   writes. Where the content is, is found by putting another in its place.
//!
//! Where neither is possible there is an error, and no guess.

use std::ops::Range;

use serde_json::Value;

use crate::chat::{CLOSE, OPEN};
use crate::error::Error;

/// Takes the place of a turn's content, to see where it is written.
const PROBE: char = '\u{FDED}';

/// Characters that a conversation must not have.
pub(crate) const RESERVED: [char; 3] = [PROBE, OPEN, CLOSE];

/// A text, and the bytes of it that the assistant says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub text: String,
    /// In order, none empty.
    pub spans: Vec<Range<usize>>,
    /// Whether spans are what the template marks. Otherwise they reach to the end of what it writes for a turn.
    pub marked: bool,
}

/// How to render some messages.
pub(crate) struct Renderer<'a> {
    /// With the prompt for an answer behind them, or without.
    pub plain: &'a Plain<'a>,
    /// If the template marks what the assistant says.
    pub marked: Option<&'a Marked<'a>>,
}

/// Renders messages as they are.
pub(crate) type Plain<'a> = dyn Fn(&[Value], Prompt) -> Result<String, Error> + 'a;
/// Renders messages with [`OPEN`] and [`CLOSE`] around what the assistant says.
pub(crate) type Marked<'a> = dyn Fn(&[Value]) -> Result<String, Error> + 'a;

/// Whether an answer is to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Prompt {
    /// The next token is the first of an answer.
    Open,
    /// The conversation ends here.
    Closed,
}

/// The texts in which the assistant's messages of these numbers (ascending, at least one) are to be learnt. Each is in
/// exactly one of them; what comes after the last is left out.
pub(crate) fn said(renderer: &Renderer, messages: &[Value], turns: &[usize]) -> Result<Vec<Said>, Error> {
    let ascend = turns.is_sorted_by(|a, b| a < b);
    let Some(messages) = turns.last().and_then(|&last| messages.get(..=last)).filter(|_| ascend) else {
        let n = messages.len();
        return Err(wrong(format!(
            "the turns {turns:?} of {n} messages are to be learnt: expected ascending ones"
        )));
    };
    if let Some(marked) = renderer.marked {
        let said = from_marks(&marked(messages)?, messages, turns)?;
        if said.text != (renderer.plain)(messages, Prompt::Closed)? {
            return Err(wrong("its generation marks change what it writes".to_owned()));
        }
        return Ok(vec![said]);
    }
    let mut texts: Vec<Said> = Vec::new();
    // Backwards: a text takes up the turns before that it leaves as they are.
    for &turn in turns.iter().rev() {
        let (text, span) = turn_of(renderer, messages, turn)?;
        match texts.last_mut().filter(|later| later.text.starts_with(&text)) {
            Some(later) => later.spans.insert(0, span),
            None => texts.push(Said { text, spans: vec![span], marked: false }),
        }
    }
    texts.reverse();
    Ok(texts)
}

fn wrong(what: String) -> Error {
    Error::Template(what)
}

/// The conversation up to a turn, and the turn's place in it.
fn turn_of(renderer: &Renderer, messages: &[Value], turn: usize) -> Result<(String, Range<usize>), Error> {
    let number = turn + 1;
    let prompt = (renderer.plain)(&messages[..turn], Prompt::Open)?;
    let text = (renderer.plain)(&messages[..=turn], Prompt::Closed)?;
    if text.len() > prompt.len() && text.starts_with(&prompt) {
        let span = prompt.len()..text.len();
        return Ok((text, span));
    }
    let lost = |why: &str| {
        Err(wrong(format!(
            "what it writes for message {number} does not go on from its prompt for an answer, and {why}: where the \
             answer begins cannot be told"
        )))
    };
    let mut probed = messages[..=turn].to_vec();
    let content = probed.last_mut().and_then(|message| message.get_mut("content"));
    match content {
        Some(Value::String(content)) if !content.is_empty() => *content = PROBE.to_string(),
        _ => return lost("the message has no content to find it by"),
    }
    let probed = (renderer.plain)(&probed, Prompt::Closed)?;
    let mut parts = probed.split(PROBE);
    let (Some(before), Some(after), None) = (parts.next(), parts.next(), parts.next()) else {
        return lost("its content is not written once");
    };
    let answer = text.strip_prefix(before).filter(|answer| answer.len() >= after.len());
    match answer.filter(|answer| !answer.is_empty() && answer.ends_with(after)) {
        Some(answer) => {
            let span = prompt.len()..prompt.len() + answer.len();
            Ok((prompt + answer, span))
        }
        None => lost("what it writes around the content depends on it"),
    }
}

/// What a template marks, of a conversation that ends with the last of `turns`.
fn from_marks(rendered: &str, messages: &[Value], turns: &[usize]) -> Result<Said, Error> {
    let mut text = String::with_capacity(rendered.len());
    let mut spans: Vec<Range<usize>> = Vec::new();
    let mut open = None;
    for c in rendered.chars() {
        match (c, open) {
            (OPEN, None) => open = Some(text.len()),
            (CLOSE, Some(start)) => {
                spans.push(start..text.len());
                open = None;
            }
            (OPEN | CLOSE, _) => return Err(wrong("its generation marks are not in pairs".to_owned())),
            _ => text.push(c),
        }
    }
    let of_assistant = |message: &Value| message["role"] == "assistant";
    let all: Vec<usize> = (0..messages.len()).filter(|&i| of_assistant(&messages[i])).collect();
    if all != turns {
        if spans.len() != all.len() {
            return Err(wrong(format!(
                "it marks {} parts of {} turns of the assistant, of which only some are to be learnt: which part is \
                 whose cannot be told",
                spans.len(),
                all.len()
            )));
        }
        let mut turn = all.iter();
        spans.retain(|_| turn.next().is_some_and(|turn| turns.contains(turn)));
    }
    spans.retain(|span| !span.is_empty());
    if open.is_some() || spans.is_empty() {
        return Err(wrong("it marks nothing that the assistant says".to_owned()));
    }
    Ok(Said { text, spans, marked: true })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::ChatTemplate;
    use serde_json::{Map, json};

    /// A text, and what is learnt of it.
    type Shown = (String, Vec<String>);

    fn said_by(template: &str, messages: &Value, turns: &[usize]) -> Result<Vec<Shown>, Error> {
        let template = ChatTemplate::parse(template).unwrap();
        let variables = |messages: &[Value], prompt: Prompt| {
            let mut variables = Map::new();
            variables.insert("messages".to_owned(), messages.to_vec().into());
            variables.insert("add_generation_prompt".to_owned(), (prompt == Prompt::Open).into());
            variables
        };
        let plain = |messages: &[Value], prompt| template.render(&variables(messages, prompt));
        let marked = |messages: &[Value]| template.render_marked(&variables(messages, Prompt::Closed));
        let marked: Option<&Marked> = if template.marks_generation() { Some(&marked) } else { None };
        let texts = said(&Renderer { plain: &plain, marked }, messages.as_array().unwrap(), turns)?;
        let parts = |said: &Said| said.spans.iter().map(|span| said.text[span.clone()].to_owned()).collect();
        Ok(texts.iter().map(|said| (said.text.clone(), parts(said))).collect())
    }

    fn talk() -> Value {
        json!([
            {"role": "user", "content": "u1"}, {"role": "assistant", "content": "a1"},
            {"role": "user", "content": "u2"}, {"role": "assistant", "content": "a2"},
            {"role": "user", "content": "u3"}
        ])
    }

    fn one(text: &str, spans: &[&str]) -> Shown {
        (text.to_owned(), spans.iter().map(|&span| span.to_owned()).collect())
    }

    const PLAIN: &str = "{% for m in messages %}[{{ m.role[0] }}:{{ m.content }}]{% endfor %}\
                         {% if add_generation_prompt %}[a:{% endif %}";

    #[test]
    fn turns_that_stay_as_they_are_share_a_text() {
        let texts = said_by(PLAIN, &talk(), &[1, 3]).unwrap();
        assert_eq!(texts, [one("[u:u1][a:a1][u:u2][a:a2]", &["a1]", "a2]"])]);
        let texts = said_by(PLAIN, &talk(), &[3]).unwrap();
        assert_eq!(texts, [one("[u:u1][a:a1][u:u2][a:a2]", &["a2]"])]);
        let texts = said_by(PLAIN, &talk(), &[1]).unwrap();
        assert_eq!(texts, [one("[u:u1][a:a1]", &["a1]"])]);
        assert!(said_by(PLAIN, &talk(), &[]).is_err());
        assert!(said_by(PLAIN, &talk(), &[9]).is_err());
        assert!(said_by(PLAIN, &talk(), &[3, 1]).is_err());
    }

    #[test]
    fn turns_that_change_later_have_texts_of_their_own() {
        // The last turn of the assistant is shown with a thought, earlier ones are not.
        let thinks = "{% for m in messages %}[{{ m.role[0] }}:{% if m.role == 'assistant' and loop.last %}(){% endif %}\
                      {{ m.content }}]{% endfor %}{% if add_generation_prompt %}[a:{% endif %}";
        let texts = said_by(thinks, &talk(), &[1, 3]).unwrap();
        let expected = [one("[u:u1][a:()a1]", &["()a1]"]), one("[u:u1][a:a1][u:u2][a:()a2]", &["()a2]"])];
        assert_eq!(texts, expected);
    }

    #[test]
    fn a_prompt_that_changes_when_it_is_answered_is_the_one_for_an_answer() {
        // A thought is opened for an answer, and not shown afterwards.
        let opens = PLAIN.replace("[a:{% endif", "[a:<think>{% endif");
        let texts = said_by(&opens, &talk(), &[1, 3]).unwrap();
        let expected =
            [one("[u:u1][a:<think>a1]", &["a1]"]), one("[u:u1][a:a1][u:u2][a:<think>a2]", &["a2]"])];
        assert_eq!(texts, expected);
        let silent = json!([{"role": "user", "content": "u"}, {"role": "assistant", "content": ""}]);
        let error = said_by(&opens, &silent, &[1]).unwrap_err().to_string();
        assert!(error.contains("message 2") && error.contains("no content"), "{error}");
        // What stands before the content depends on it.
        let depends = opens.replace("{{ m.content }}", "{{ m.content | length }}{{ m.content }}");
        let error = said_by(&depends, &talk(), &[1]).unwrap_err().to_string();
        assert!(error.contains("depends on it"), "{error}");
        let twice = opens.replace("{{ m.content }}", "{{ m.content }}{{ m.content }}");
        assert!(said_by(&twice, &talk(), &[1]).unwrap_err().to_string().contains("not written once"));
    }

    #[test]
    fn marks_of_the_template_are_taken_at_their_word() {
        let marked = "{% for m in messages %}\n  {% if m.role == 'assistant' %}\n    {%- generation -%}\n  {{ m.content }}! \
                      {%- endgeneration %}\n{% else %}{{ m.content }}{% endif %}{% endfor %}";
        let texts = said_by(marked, &talk(), &[1, 3]).unwrap();
        assert_eq!(texts, [one("u1a1!u2a2!", &["a1!", "a2!"])]);
        assert_eq!(said_by(marked, &talk(), &[3]).unwrap(), [one("u1a1!u2a2!", &["a2!"])]);
        assert_eq!(said_by(marked, &talk(), &[1]).unwrap(), [one("u1a1!", &["a1!"])]);
        let once = "{% generation %}{% for m in messages %}{{ m.content }}{% endfor %}{% endgeneration %}";
        assert_eq!(said_by(once, &talk(), &[1, 3]).unwrap(), [one("u1a1u2a2", &["u1a1u2a2"])]);
        assert!(said_by(once, &talk(), &[3]).unwrap_err().to_string().contains("cannot be told"));
        let never = "{% if false %}{% generation %}{% endgeneration %}{% endif %}x";
        assert!(said_by(never, &talk(), &[1]).unwrap_err().to_string().contains("marks nothing"));
        let lost = "{% set x %}{% generation %}y{% endgeneration %}{% endset %}{{ x | length }}";
        let error = said_by(lost, &talk(), &[1]).unwrap_err().to_string();
        assert!(error.contains("marks nothing"), "{error}");
    }
}
