//! Specs: one line, TOML files, mixtures, and what is wrong with them.

use std::path::Path;

use serde_json::json;
use wootz_rewards::kinds::KINDS;
use wootz_rewards::{Answer, Failure, Fields, Rewards, Score};

fn fields(record: serde_json::Value) -> Fields {
    record.as_object().unwrap().clone()
}

fn score_of(rewards: &Rewards, text: &str, fields: &Fields) -> Result<Score, Failure> {
    let answer = Answer { prompt: "2+2=", text, tokens: 4, truncated: false, fields };
    rewards.score(&[answer]).remove(0)
}

fn total(spec: &str, text: &str) -> f64 {
    score_of(&Rewards::parse(spec).unwrap(), text, &fields(json!({ "answer": "4", "label": "four" })))
        .unwrap()
        .total
}

#[test]
fn a_line_is_a_kind_and_its_option() {
    assert_eq!(total("exact", "4"), 1.0);
    assert_eq!(total("exact:label", "four"), 1.0);
    assert_eq!(total(" contains:our ", "four"), 1.0);
    assert_eq!(total("regex:^a:b$", "a:b"), 1.0);
    assert_eq!(total("numeric", "so 4"), 1.0);
    assert_eq!(total("numeric:0.5", "3.5"), 1.0);
    assert_eq!(total("numeric:1", "2.5"), 0.0);
    assert_eq!(total("edit", "4"), 1.0);
    assert_eq!(total("json", "{}"), 1.0);
    assert_eq!(total("length:3..5", "x"), 1.0);
    assert_eq!(total("length:..3", "x"), 0.0);
    assert_eq!(total("length:5..", "x"), 0.0);
    assert_eq!(total("repetition:1", "a a"), 0.5);
    assert_eq!(total("format", "<think></think><answer></answer>"), 1.0);
    assert_eq!(total("format:a, b", "<a></a><b></b>"), 1.0);
}

#[test]
fn a_line_that_is_none_is_refused() {
    let error = |spec: &str| Rewards::parse(spec).unwrap_err().to_string();
    let kinds = KINDS.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ");
    assert_eq!(
        error("exakt"),
        format!(
            "reward `exakt`: expected KIND or KIND:OPTION with one of the kinds {kinds}, an http address, or a TOML file"
        )
    );
    assert!(error("").contains("expected KIND"));
    assert!(error("numeric:few").contains("expected `numeric:` to be followed by a number, found `few`"));
    assert!(error("numeric:-1").contains("`tolerance`: expected a number that is not negative"));
    assert!(error("length:3").contains("followed by MIN..MAX, MIN.. or ..MAX, found `3`"));
    assert!(error("length:..").contains("expected `min` or `max`"));
    assert!(error("regex:").contains("followed by something"));
    assert!(error("regex:(").contains("reward `regex:(`: `pattern`: expected a regular expression"));
    assert!(error("check:x").contains("write a TOML file"));
    assert!(error("check").contains("expected a condition"));
    assert!(error("regex").contains("`pattern` is missing"));
    assert!(error("nowhere.toml").starts_with("nowhere.toml: cannot be read"));
}

const MIXED: &str = "
[[reward]]
kind = 'exact'
weight = 2
of = { tag = 'answer' }

[[reward]]
name = 'shape'
kind = 'format'
gate = true

[[reward]]
kind = 'length'
unit = 'characters'
weight = -0.5
min = 45
fall = 10
";

#[test]
fn rewards_are_weighted_and_gated() {
    let rewards = Rewards::from_toml(MIXED, Path::new("f.toml")).unwrap();
    assert_eq!(rewards.names(), ["exact", "shape", "length"]);
    let fields = fields(json!({ "answer": "4" }));
    let score = |text| score_of(&rewards, text, &fields).unwrap();
    // 40 characters: half of the way.
    let good = score("<think>2+2</think><answer>4</answer>    ");
    assert_eq!(good, Score { total: 2.0 + 1.0 - 0.25, parts: vec![1.0, 1.0, 0.5] });
    let wrong = score("<think></think><answer>5</answer>");
    assert_eq!(wrong, Score { total: 1.0, parts: vec![0.0, 1.0, 0.0] });
    // What the gate closes is worth nothing, and is told all the same.
    let shapeless = score("so <answer>4</answer>");
    assert_eq!(shapeless, Score { total: 0.0, parts: vec![1.0, 0.0, 0.0] });
    // Without the part that is looked at.
    assert_eq!(score("4").parts, [0.0, 0.0, 0.0]);
}

#[test]
fn a_failure_is_of_its_answer_alone() {
    let text = "[[reward]]\nkind = 'json'\n[[reward]]\nname = 'sum'\nkind = 'numeric'";
    let rewards = Rewards::from_toml(text, Path::new("f.toml")).unwrap();
    let records = [json!({ "answer": 4 }), json!({}), json!({ "answer": 5 })].map(fields);
    let answers: Vec<_> = records
        .iter()
        .map(|fields| Answer { prompt: "", text: "4", tokens: 1, truncated: false, fields })
        .collect();
    let scores = rewards.score(&answers);
    assert_eq!(scores[0].as_ref().unwrap().parts, [1.0, 1.0]);
    let failure = scores[1].as_ref().unwrap_err();
    assert_eq!(failure.to_string(), "reward `sum`: the record has no field `answer`; it has no fields");
    assert_eq!(scores[2].as_ref().unwrap().parts, [1.0, 0.0]);
    // What can be known of a record before a run.
    assert_eq!(rewards.check(&records[0]), Ok(()));
    assert_eq!(rewards.check(&records[1]).as_ref(), Err(failure));
}

#[test]
fn a_sum_that_is_not_finite_is_a_failure() {
    let text = "[[reward]]\nkind = 'exact'\nweight = 1e308\n[[reward]]\nkind = 'edit'\nweight = 1e308";
    let rewards = Rewards::from_toml(text, Path::new("f.toml")).unwrap();
    let failure = score_of(&rewards, "4", &fields(json!({ "answer": "4" }))).unwrap_err();
    assert_eq!(failure.to_string(), "reward `total`: the weighted sum of [1.0, 1.0] is not finite");
}

#[test]
fn errors_of_a_file_name_the_file_the_reward_and_the_key() {
    let cases = [
        ("", "expected at least one [[reward]], found none"),
        ("reward = 3", "expected [[reward]], found reward = 3"),
        ("reward = [3]", "reward 1: expected a table, found 3"),
        ("[reward]\nkind = 'exact'", "expected [[reward]], found [reward]"),
        ("rewards = 1\n[[reward]]\nkind = 'exact'", "unknown key `rewards`; known here: [[reward]]"),
        ("[[reward]]\nkind = 'exact'\n[[reward]]\nkind =", "line 4: "),
        ("[[reward]]\nname = 'x'", "reward 1: `kind` is missing"),
        ("[[reward]]\nkind = 'exakt'", "reward 1: `kind`: expected one of exact, contains, regex, "),
        ("[[reward]]\nkind = 3", "reward 1: `kind`: expected a text, found 3"),
        (
            "[[reward]]\nkind = 'exact'\nwight = 2",
            "reward 1: unknown key `wight`; known here: field, gate, ignore_case, kind, name, of, text, weight",
        ),
        (
            "[[reward]]\nkind = 'exact'\n[[reward]]\nname = 'b'\nkind = 'json'\nvalid = 2",
            "reward 2 (`b`): `valid`: expected a number from 0 to 1, found 2",
        ),
        ("[[reward]]\nkind = 'exact'\nweight = inf", "`weight`: expected a number, found inf"),
        ("[[reward]]\nkind = 'exact'\nname = \"a\\nb\"", "`name`: expected letters"),
        (
            "[[reward]]\nkind = 'exact'\n[[reward]]\nkind = 'exact'",
            "two rewards are called `exact`; give one of them another `name`",
        ),
        ("[[reward]]\nkind = 'exact'\nof = 3", "`of`: expected a table with one of tag"),
    ];
    for (text, expected) in cases {
        let found = Rewards::from_toml(text, Path::new("a/f.toml")).unwrap_err().to_string();
        assert!(found.starts_with("a/f.toml: ") && found.contains(expected), "{text}: {found}");
    }
}

#[test]
fn files_are_looked_for_beside_the_one_that_names_them() {
    let folder = std::env::temp_dir().join(format!("wootz-rewards-spec-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("schema.json"), r#"{"type": "array"}"#).unwrap();
    let file = folder.join("rewards.toml");
    std::fs::write(&file, "[[reward]]\nkind = 'json'\nschema = 'schema.json'").unwrap();
    let rewards = Rewards::parse(&file.display().to_string()).unwrap();
    assert_eq!(score_of(&rewards, "[]", &Fields::new()).unwrap().total, 1.0);
    assert_eq!(score_of(&rewards, "{}", &Fields::new()).unwrap().total, 0.0);
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn rewards_may_be_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Rewards>();
}
