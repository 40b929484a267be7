//! What an object of a data set is: a conversation, a prompt with its completion, or a text.

use std::fmt;

use serde_json::{Map, Value};

use super::TrainOn;

/// What is in an object, ready to be made into tokens.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Form {
    /// Variables of the chat template, `messages` among them, of which these are learnt: all of the assistant.
    Turns(Map<String, Value>, Vec<usize>),
    /// Variables of the chat template; all is learnt.
    WholeChat(Map<String, Value>),
    /// A prompt that is read, and a completion that is learnt.
    Completion(String, String),
    /// All is learnt.
    Text(String),
}

/// The fields that mean something; others are left alone.
pub(super) const FIELDS: [&str; 6] =
    ["messages", "prompt", "completion", "text", "tools", "chat_template_kwargs"];

/// Who may speak. Templates have further names for some of them; data sets do not.
const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

/// Finds out what `object` is: by `messages`, `prompt` with `completion`, or `text`, the first that is there.
pub(super) fn form(mut object: Map<String, Value>, train_on: TrainOn) -> Result<Form, String> {
    let mut take = |name: &str| object.remove(name).filter(|value| !value.is_null());
    let [messages, prompt, completion, text, tools, more] = FIELDS.map(&mut take);
    match (messages, prompt, completion, text) {
        (Some(messages), ..) => {
            let messages = list_of_messages("messages", messages)?;
            chat(messages, 0, tools, more, train_on)
        }
        (None, Some(Value::String(prompt)), Some(Value::String(completion)), _) => Ok(match train_on {
            TrainOn::Assistant | TrainOn::Completion => Form::Completion(prompt, completion),
            TrainOn::All => Form::Text(prompt + &completion),
        }),
        (None, Some(prompt @ Value::Array(_)), Some(completion @ Value::Array(_)), _) => {
            let mut messages = list_of_messages("prompt", prompt)?;
            let first = messages.len();
            messages.extend(list_of_messages("completion", completion)?);
            // What the assistant said in the prompt is read, and all that it says in the completion is learnt.
            let train_on = if train_on == TrainOn::Completion { TrainOn::Assistant } else { train_on };
            chat(messages, first, tools, more, train_on)
        }
        (None, Some(prompt), Some(completion), _) => Err(format!(
            "expected `prompt` and `completion` to be two texts or two lists of messages, found {} and {}",
            kind(&prompt),
            kind(&completion)
        )),
        (None, Some(_), None, _) => Err("`prompt` stands without `completion`".to_owned()),
        (None, None, Some(_), _) => Err("`completion` stands without `prompt`".to_owned()),
        (None, None, None, Some(Value::String(text))) => Ok(Form::Text(text)),
        (None, None, None, Some(other)) => Err(format!("`text`: expected a text, found {}", kind(&other))),
        (None, None, None, None) => {
            let keys: Vec<&str> = object.keys().map(String::as_str).take(12).collect();
            Err(format!(
                "expected `messages`, `prompt` with `completion`, or `text`; there are the fields `{}`",
                keys.join("`, `")
            ))
        }
    }
}

/// A conversation; turns of the assistant are learnt from message `first` on.
fn chat(
    mut messages: Vec<Value>,
    first: usize,
    tools: Option<Value>,
    more: Option<Value>,
    train_on: TrainOn,
) -> Result<Form, String> {
    let (mut variables, mut turns) = variables(&mut messages, tools, more)?;
    turns.retain(|&turn| turn >= first);
    variables.insert("messages".to_owned(), messages.into());
    variables.insert("add_generation_prompt".to_owned(), false.into());
    match train_on {
        TrainOn::All => return Ok(Form::WholeChat(variables)),
        TrainOn::Completion => turns = turns.pop().into_iter().collect(),
        TrainOn::Assistant => {}
    }
    match turns.as_slice() {
        [] => Err("there is no message of the assistant to learn".to_owned()),
        _ => Ok(Form::Turns(variables, turns)),
    }
}

/// Variables of the chat template for a conversation that is to be gone on with: by `messages`, or by a `prompt` that is a
/// list of them. None where the record has neither.
pub fn conversation(fields: &Map<String, Value>) -> Result<Option<Map<String, Value>>, String> {
    let given = |name: &str| fields.get(name).filter(|value| !value.is_null()).cloned();
    let (name, messages) = match (given("messages"), given("prompt")) {
        (Some(messages), _) => ("messages", messages),
        (None, Some(prompt @ Value::Array(_))) => ("prompt", prompt),
        (None, _) => return Ok(None),
    };
    let mut messages = list_of_messages(name, messages)?;
    let mut variables = variables(&mut messages, given("tools"), given("chat_template_kwargs"))?.0;
    if messages.last().is_some_and(|last| last["role"] == "assistant") {
        return Err(format!(
            "`{name}` ends with a message of the assistant: nothing is left to answer; what is right goes into another field"
        ));
    }
    variables.insert("messages".to_owned(), messages.into());
    variables.insert("add_generation_prompt".to_owned(), true.into());
    Ok(Some(variables))
}

/// Variables of the chat template but for the messages, which are checked; and those of the messages that may be learnt.
fn variables(
    messages: &mut [Value],
    tools: Option<Value>,
    more: Option<Value>,
) -> Result<(Map<String, Value>, Vec<usize>), String> {
    let mut turns = Vec::new();
    for (i, message) in messages.iter_mut().enumerate() {
        if check_message(message).map_err(|error| format!("message {}: {error}", i + 1))? {
            turns.push(i);
        }
    }
    let mut variables = match more {
        None => Map::new(),
        Some(Value::Object(more)) => more,
        Some(other) => {
            return Err(format!("`chat_template_kwargs`: expected an object, found {}", kind(&other)));
        }
    };
    if let Some(tools) = tools {
        variables.insert("tools".to_owned(), list_of_tools(tools)?);
    }
    Ok((variables, turns))
}

fn list_of_messages(name: &str, value: Value) -> Result<Vec<Value>, String> {
    match value {
        Value::Array(messages) if !messages.is_empty() => Ok(messages),
        Value::Array(_) => Err(format!("`{name}`: expected messages, found an empty list")),
        other => Err(format!("`{name}`: expected a list of messages, found {}", kind(&other))),
    }
}

/// Tools, or their JSON: tables cannot hold what has no fixed fields.
fn list_of_tools(value: Value) -> Result<Value, String> {
    let tools = match value {
        Value::String(json) => {
            serde_json::from_str(&json).map_err(|error| format!("`tools`: is no JSON: {error}"))?
        }
        other => other,
    };
    match &tools {
        Value::Array(list) if list.iter().all(Value::is_object) => Ok(tools),
        other => Err(format!("`tools`: expected a list of objects, found {}", kind(other))),
    }
}

/// Checks a message, and takes out what templates would stumble over. Returns whether it is to be learnt: what the
/// assistant says, unless it has a `weight` of 0 (as OpenAI's data have it).
fn check_message(message: &mut Value) -> Result<bool, String> {
    let Value::Object(fields) = message else {
        return Err(format!("expected an object, found {}", kind(message)));
    };
    let role = match fields.get("role") {
        Some(Value::String(role)) => role.clone(),
        Some(other) => return Err(format!("`role`: expected a text, found {}", kind(other))),
        None => return Err("has no `role`".to_owned()),
    };
    if !ROLES.contains(&role.as_str()) {
        return Err(format!("role {role:?} is not known, expected one of {}", ROLES.join(", ")));
    }
    let weight = match fields.remove("weight") {
        None | Some(Value::Null) => true,
        Some(value) => match value.as_f64() {
            Some(0.0) => false,
            Some(1.0) => true,
            _ => return Err(format!("`weight`: expected 0 or 1, found {value}")),
        },
    };
    // Tables have a null where a field is missing, and templates ask whether a field is there.
    fields.retain(|name, value| name == "content" || !value.is_null());
    let other_content = match (fields.get("tool_calls"), fields.get("reasoning_content")) {
        (None, None) => false,
        (Some(Value::Array(calls)), _) => !calls.is_empty(),
        (Some(other), _) => {
            return Err(format!("`tool_calls`: expected a list, found {}", kind(other)));
        }
        (None, Some(_)) => true,
    };
    match fields.get("content") {
        Some(Value::String(_)) => {}
        None | Some(Value::Null) if other_content && role == "assistant" => {}
        None => return Err("has no `content`".to_owned()),
        Some(other) => return Err(format!("`content`: expected a text, found {}", kind(other))),
    }
    if let Some(Value::Array(calls)) = fields.get_mut("tool_calls") {
        calls.iter_mut().for_each(open_arguments);
    }
    Ok(role == "assistant" && weight)
}

/// OpenAI's data have the arguments of a call as the text of a JSON object; templates would write it as a text again,
/// in quotes.
fn open_arguments(call: &mut Value) {
    let function = match call.get_mut("function") {
        Some(function) => function,
        None => call,
    };
    let Some(arguments) = function.get_mut("arguments") else { return };
    let object = arguments.as_str().and_then(|text| serde_json::from_str::<Map<String, Value>>(text).ok());
    if let Some(object) = object {
        *arguments = Value::Object(object);
    }
}

/// What a value is, for messages.
fn kind(value: &Value) -> impl fmt::Display {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(value: Value, train_on: TrainOn) -> Result<Form, String> {
        form(value.as_object().unwrap().clone(), train_on)
    }

    fn turns(value: Value, train_on: TrainOn) -> Vec<usize> {
        match of(value, train_on).unwrap() {
            Form::Turns(_, turns) => turns,
            other => panic!("{other:?}"),
        }
    }

    fn message(role: &str) -> Value {
        json!({"role": role, "content": "x"})
    }

    #[test]
    fn each_form_is_known_by_its_fields() {
        let texts = |prompt: &str, completion: &str| json!({"prompt": prompt, "completion": completion});
        let (a, b) = ("a".to_owned(), "b".to_owned());
        assert_eq!(of(texts("a", "b"), TrainOn::Assistant), Ok(Form::Completion(a.clone(), b.clone())));
        assert_eq!(of(texts("a", "b"), TrainOn::Completion), Ok(Form::Completion(a.clone(), b)));
        assert_eq!(of(texts("a", "b"), TrainOn::All), Ok(Form::Text("ab".to_owned())));
        assert_eq!(
            of(json!({"text": "a", "messages": null, "id": 3}), TrainOn::Completion),
            Ok(Form::Text(a))
        );
        let talk = json!([message("user"), message("assistant"), message("user"), message("assistant")]);
        assert_eq!(turns(json!({"messages": talk, "prompt": "a"}), TrainOn::Assistant), [1, 3]);
        assert_eq!(turns(json!({ "messages": talk }), TrainOn::Completion), [3]);
        let split = json!({"prompt": talk, "completion": [message("assistant"), message("assistant")]});
        assert_eq!(turns(split.clone(), TrainOn::Assistant), [4, 5]);
        assert_eq!(turns(split, TrainOn::Completion), [4, 5]);
        let whole = of(json!({"messages": [message("user")]}), TrainOn::All).unwrap();
        assert!(
            matches!(whole, Form::WholeChat(ref variables) if variables["messages"][0] == message("user"))
        );
    }

    #[test]
    fn variables_of_the_template_come_along() {
        let tools = json!([{"type": "function"}]);
        let object = json!({
            "messages": [
                message("user"),
                {"role": "assistant", "content": null, "name": null, "tool_calls": [
                    {"function": {"name": "f", "arguments": "{\"b\": 1, \"a\": 2}"}},
                    {"name": "g", "arguments": "not JSON"},
                ]},
                {"role": "assistant", "content": "y", "weight": 0},
                {"role": "assistant", "content": "z", "weight": 1},
            ],
            "tools": tools.to_string(),
            "chat_template_kwargs": {"enable_thinking": false},
        });
        let Ok(Form::Turns(variables, turns)) = of(object, TrainOn::Assistant) else { panic!() };
        assert_eq!(turns, [1, 3]);
        assert_eq!((&variables["tools"], &variables["enable_thinking"]), (&tools, &json!(false)));
        let calls = json!([
            {"function": {"name": "f", "arguments": {"b": 1, "a": 2}}},
            {"name": "g", "arguments": "not JSON"},
        ]);
        assert_eq!(
            variables["messages"][1],
            json!({"role": "assistant", "content": null, "tool_calls": calls})
        );
        assert_eq!(variables["messages"][2], json!({"role": "assistant", "content": "y"}));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let user = message("user");
        for (object, expected) in [
            (json!({"conversations": [], "id": 1}), "there are the fields `conversations`, `id`"),
            (json!({"text": 3}), "`text`: expected a text, found a number"),
            (json!({"prompt": "a"}), "without `completion`"),
            (json!({"completion": "a"}), "without `prompt`"),
            (json!({"prompt": "a", "completion": [user]}), "found a text and a list"),
            (json!({"messages": "a"}), "expected a list of messages, found a text"),
            (json!({"messages": []}), "found an empty list"),
            (json!({"messages": [user]}), "no message of the assistant"),
            (json!({"messages": [user, 3]}), "message 2: expected an object, found a number"),
            (json!({"messages": [{"content": "a"}]}), "message 1: has no `role`"),
            (json!({"messages": [{"role": 1}]}), "`role`: expected a text"),
            (json!({"messages": [{"role": "gpt", "content": "a"}]}), "role \"gpt\" is not known"),
            (json!({"messages": [{"role": "user"}]}), "has no `content`"),
            (
                json!({"messages": [{"role": "user", "content": [1]}]}),
                "`content`: expected a text, found a list",
            ),
            (json!({"messages": [{"role": "assistant", "content": null}]}), "found null"),
            (json!({"messages": [{"role": "assistant", "content": "a", "weight": 2}]}), "expected 0 or 1"),
            (json!({"messages": [{"role": "assistant", "content": "a", "weight": 0}]}), "no message of the"),
            (json!({"messages": [{"role": "assistant", "content": "a", "tool_calls": 1}]}), "`tool_calls`"),
            (json!({"messages": [user], "tools": "x"}), "`tools`: is no JSON"),
            (json!({"messages": [user], "tools": [1]}), "expected a list of objects"),
            (json!({"messages": [user], "chat_template_kwargs": 1}), "expected an object"),
        ] {
            let error = of(object.clone(), TrainOn::Assistant).unwrap_err();
            assert!(error.contains(expected), "{object}: {error}");
        }
    }
}
