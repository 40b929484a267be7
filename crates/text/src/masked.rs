//! Tokens to learn from, and which of them are to be learnt.

use serde_json::{Map, Value};

use crate::error::Error;
use crate::tokenizer::{Encoding, Special, Tokenizer, contains};
use crate::turns::{Marked, Prompt, RESERVED, Renderer, Said, said};

/// Tokens, and which of them a model is to learn to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Masked {
    /// Token ids.
    pub ids: Vec<u32>,
    /// For each whether it is to be learnt.
    pub learnt: Vec<bool>,
    /// Answers whose first characters are in a token that begins before them, which is not learnt: `: ` before `four`
    /// makes the token ` four`. The prompt that a model is given would end otherwise.
    pub straddled: usize,
    /// Answers without a token that ends a turn: nothing is learnt of when to stop.
    pub unended: usize,
}

impl Tokenizer {
    /// A text of which everything is learnt, ended by the vocabulary's end of text.
    ///
    /// # Errors
    /// Those of [`encode`](Self::encode).
    pub fn encode_text(&self, text: &str) -> Result<Masked, Error> {
        self.encode_completion("", text)
    }

    /// A prompt, and a completion that is learnt, ended by the vocabulary's end of text.
    ///
    /// # Errors
    /// Those of [`encode`](Self::encode).
    pub fn encode_completion(&self, prompt: &str, completion: &str) -> Result<Masked, Error> {
        let text = [prompt, completion].concat();
        let special = Special { add: true, parse: false };
        let Encoding { mut ids, mut starts } = self.encode_with_starts(&text, special)?;
        let eos = self.eos().or_else(|| self.end_tokens().first().copied());
        if let Some(eos) = eos.filter(|eos| ids.last() != Some(eos)) {
            ids.push(eos);
            starts.push(text.len());
        }
        let before = self.prefix.len(); // begins at 0, as the text does
        let learnt = (0..ids.len()).map(|i| i >= before && starts[i] >= prompt.len()).collect();
        let straddled = !completion.is_empty() && !starts[before..].contains(&prompt.len());
        Ok(Masked { ids, learnt, straddled: straddled.into(), unended: eos.is_none().into() })
    }

    /// A conversation as the model's template writes it, of which everything is learnt. Special tokens are those that
    /// the template wrote.
    ///
    /// # Errors
    /// Those of [`encode_chat`](Self::encode_chat).
    pub fn encode_whole_chat(&self, variables: &Map<String, Value>) -> Result<Masked, Error> {
        let ids = self.encode_chat(variables)?;
        Ok(Masked { learnt: vec![true; ids.len()], ids, ..Masked::default() })
    }

    /// A conversation (`messages` and other variables of the template), of which the messages of these numbers are
    /// learnt: ascending, and all of the assistant. Special tokens are those that the template wrote.
    ///
    /// Mostly it is one text. Where the template shows a turn otherwise once others follow it, it is several, in each of
    /// which the turn that is learnt comes last; no message is learnt twice.
    ///
    /// A token is learnt if it begins in what the assistant says: from the end of the prompt for an answer to the last
    /// token that ends a turn, that token included; or what the template marks with `{% generation %}`.
    ///
    /// # Errors
    /// Those of [`encode_chat`](Self::encode_chat), and a template that does not let see what the assistant says.
    pub fn encode_turns(
        &self,
        variables: &Map<String, Value>,
        turns: &[usize],
    ) -> Result<Vec<Masked>, Error> {
        if let Some(found) = RESERVED.iter().find(|&&c| variables.values().any(|value| contains(value, c))) {
            let code = u32::from(*found);
            return Err(Error::Encode(format!(
                "the conversation holds U+{code:04X}, which is no character and marks turns here"
            )));
        }
        let (mut variables, marker) = self.shielded(variables)?;
        let Some(Value::Array(messages)) = variables.remove("messages") else {
            return Err(Error::Template("expected a list `messages` to fill it with".to_owned()));
        };
        let of = |messages: &[Value], prompt: Prompt| {
            let mut all = self.with_own_variables(&variables);
            all.insert("messages".to_owned(), messages.to_vec().into());
            all.insert("add_generation_prompt".to_owned(), (prompt == Prompt::Open).into());
            all
        };
        let template = self.template_for(&variables)?;
        let plain = |messages: &[Value], prompt| template.render(&of(messages, prompt));
        let marked = |messages: &[Value]| template.render_marked(&of(messages, Prompt::Closed));
        let marked: Option<&Marked> = if template.marks_generation() { Some(&marked) } else { None };
        let texts = said(&Renderer { plain: &plain, marked }, &messages, turns)?;
        texts.iter().map(|text| self.mask(text, marker)).collect()
    }

    fn mask(&self, said: &Said, marker: Option<char>) -> Result<Masked, Error> {
        let Said { text, spans, marked } = said;
        let Encoding { ids, starts } = self.encode_marked_with_starts(text, true, marker)?;
        let mut masked = Masked { learnt: vec![false; ids.len()], ids, ..Masked::default() };
        for span in spans {
            // A marker that stands first is no part of any token.
            let kept = text[span.clone()].find(|c| Some(c) != marker);
            let start = span.start + kept.unwrap_or(span.len());
            let [first, end] = [start, span.end].map(|at| starts.partition_point(|&start| start < at));
            masked.straddled += usize::from(kept.is_some() && starts.get(first) != Some(&start));
            let is_end = |i: &usize| self.end_tokens().contains(&masked.ids[*i]);
            let last = (first..end).rev().find(is_end);
            masked.unended += usize::from(last.is_none());
            let end = match last {
                // What the template writes between turns, such as a line break, nobody has to say.
                Some(last) if !marked => last + 1,
                _ => end,
            };
            masked.learnt[first..end].fill(true);
        }
        Ok(masked)
    }
}
