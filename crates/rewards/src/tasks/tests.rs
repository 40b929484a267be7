use std::collections::HashSet;

use super::*;
use crate::Answer;

const COUNT: u64 = 400;

fn problems(task: Task, split: Split, seed: u64, level: u8) -> Vec<Problem> {
    (0..COUNT).map(|index| task.problem(split, seed, index, level)).collect()
}

/// What is right, found out of the prompt by other means than the tasks have.
fn solve(prompt: &str) -> String {
    let question = prompt.strip_suffix('=').unwrap();
    if let Some((word, rest)) = question.split_once(' ') {
        match word {
            "copy" => rest.to_owned(),
            "sort" => ('0'..='9').flat_map(|digit| rest.matches(digit)).collect(),
            "balanced" => if reduced(rest).is_empty() { "yes" } else { "no" }.to_owned(),
            "close" => {
                let close = |c| ")]}".as_bytes()["([{".find(c).unwrap()] as char;
                reduced(rest).chars().rev().map(close).collect()
            }
            "count" => {
                let (letter, word) = rest.split_once(" in ").unwrap();
                word.matches(letter).count().to_string()
            }
            other => panic!("{other}"),
        }
    } else {
        let at = question.find(['+', '-', '*']).unwrap();
        let (a, b): (i128, i128) = (question[..at].parse().unwrap(), question[at + 1..].parse().unwrap());
        match &question[at..=at] {
            "+" => a + b,
            "-" => a - b,
            _ => a * b,
        }
        .to_string()
    }
}

/// A string of brackets without what closes.
fn reduced(text: &str) -> String {
    let mut text = text.to_owned();
    loop {
        let less = text.replace("()", "").replace("[]", "").replace("{}", "");
        if less == text {
            return less;
        }
        text = less;
    }
}

/// A problem without its looks: numbers in order, where their order does not matter.
fn essence(prompt: &str) -> String {
    match prompt.trim_end_matches('=').split_once(['+', '*']) {
        Some((a, b)) if !prompt.contains(' ') => {
            let sign = if prompt.contains('+') { '+' } else { '*' };
            let (a, b): (u64, u64) = (a.parse().unwrap(), b.parse().unwrap());
            format!("{}{sign}{}", a.min(b), a.max(b))
        }
        _ => prompt.to_owned(),
    }
}

#[test]
fn answers_are_right_and_texts_plain() {
    for &task in Task::ALL {
        for level in 1..=Task::LEVELS {
            for problem in
                [Split::Train, Split::Test].into_iter().flat_map(|split| problems(task, split, 3, level))
            {
                assert_eq!(problem.answer, solve(&problem.prompt), "{problem:?}");
                let is_plain = |text: &str| text.bytes().all(|b| b.is_ascii_graphic() || b == b' ');
                assert!(is_plain(&problem.prompt) && is_plain(&problem.answer), "{problem:?}");
                assert!(!problem.answer.is_empty() && problem.prompt.ends_with('='), "{problem:?}");
            }
        }
    }
}

#[test]
fn no_problem_is_in_both_splits() {
    for &task in Task::ALL {
        // All levels and several seeds together: a problem of one must not be another's test.
        let all = |split| -> HashSet<String> {
            let of = |level| (0..4).flat_map(move |seed| problems(task, split, seed, level));
            (1..=Task::LEVELS).flat_map(of).map(|problem| essence(&problem.prompt)).collect()
        };
        let (train, test) = (all(Split::Train), all(Split::Test));
        assert!(train.len() > 5000 && test.len() > 1500, "{task:?}: {} and {}", train.len(), test.len());
        assert_eq!(train.intersection(&test).count(), 0, "{task:?}");
    }
}

#[test]
fn there_are_enough_problems_from_the_first_level_on() {
    for &task in Task::ALL {
        let distinct =
            |split| problems(task, split, 0, 1).into_iter().map(|p| p.prompt).collect::<HashSet<_>>().len();
        let (train, test) = (distinct(Split::Train), distinct(Split::Test));
        assert!(train >= 100 && test >= 10, "{task:?}: {train} and {test}");
    }
}

#[test]
fn levels_grow() {
    for &task in Task::ALL {
        let length =
            |level| -> usize { problems(task, Split::Train, 0, level).iter().map(|p| p.prompt.len()).sum() };
        let lengths: Vec<_> = (1..=Task::LEVELS).map(length).collect();
        assert!(lengths.is_sorted_by(|a, b| a < b), "{task:?}: {lengths:?}");
        let at = |level| task.problem(Split::Test, 5, 6, level);
        assert_eq!((at(0), at(200)), (at(1), at(Task::LEVELS)));
    }
}

#[test]
fn a_problem_is_a_function_of_its_arguments() {
    for &task in Task::ALL {
        assert_eq!(problems(task, Split::Train, 9, 3), problems(task, Split::Train, 9, 3));
        let some = problems(task, Split::Train, 9, 3);
        let same = |other: &[Problem]| some.iter().zip(other).filter(|(a, b)| a == b).count();
        assert!(same(&problems(task, Split::Train, 10, 3)) < 100, "{task:?}: another seed");
        assert!(same(&some[1..]) < 100, "{task:?}: another index");
    }
    // A run that is resumed by a later version must get the same.
    let first = Task::ALL.iter().map(|task| task.problem(Split::Train, 1, 2, 3).prompt).collect::<Vec<_>>();
    assert_eq!(
        first,
        ["218-32=", "copy 30520=", "sort 16174=", "balanced ()[([]{}=", "count s in eedeqxdsse="]
    );
}

#[test]
fn both_answers_are_equally_likely() {
    let asked = problems(Task::Brackets, Split::Train, 0, 4);
    let of = |answer: &str| asked.iter().filter(|problem| problem.answer == answer).count() as u64;
    let (yes, no) = (of("yes"), of("no"));
    assert!((COUNT / 6..COUNT / 3).contains(&yes) && (COUNT / 6..COUNT / 3).contains(&no), "{yes} and {no}");
}

#[test]
fn names_are_read_as_they_are_written() {
    for &task in Task::ALL {
        assert_eq!(task.name().parse::<Task>().unwrap(), task);
    }
    let error = "maths".parse::<Task>().unwrap_err().to_string();
    assert_eq!(error, "task `maths`: expected one of arithmetic, copy, sort, brackets, letters");
}

#[test]
fn right_answers_are_worth_one_and_others_less() {
    let worth = |task: Task, text: &str, answer: &str| {
        let problem = Problem { prompt: "p=".into(), answer: answer.into() };
        let fields = problem.fields();
        assert_eq!(fields["prompt"], "p=");
        let answer = Answer { prompt: "p=", text, tokens: 1, truncated: false, fields: &fields };
        let rewards = task.rewards().unwrap();
        rewards.check(&fields).unwrap();
        (rewards.score(&[answer]).remove(0).unwrap().total * 1e6).round() / 1e6
    };
    for &task in Task::ALL {
        assert_eq!(worth(task, " 46\n12+1=13\n", "46"), 1.0, "{task:?}");
        assert_eq!(worth(task, "", "46"), 0.0, "{task:?}");
        assert_eq!(worth(task, "x", "46"), 0.0, "{task:?}");
    }
    assert_eq!(worth(Task::Arithmetic, "47", "46"), 0.15);
    assert_eq!(worth(Task::Copy, "4820", "4821"), 0.225);
    assert_eq!(worth(Task::Sort, "1248 5", "1248"), 0.2);
    assert_eq!(worth(Task::Brackets, "}]", "}])"), 0.0);
    assert_eq!(worth(Task::Letters, "3", "2"), 0.2);
}
