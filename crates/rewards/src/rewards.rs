//! The weighted sum of rewards.

use std::fmt;

use crate::answer::{Answer, Failure, Fields, Reason, Score};
use crate::error::Result;
use crate::kinds::{Judge, Seen, Values};
use crate::of::Of;
use crate::spec::Setup;

/// A spec that was read: rewards, each with its weight.
///
/// `total = Σ weight · part`, or 0 if a part with `gate = true` is 0.
///
/// Programs that rewards run are started when they are first asked, are kept running, and end with this value.
pub struct Rewards {
    rewards: Vec<Reward>,
    names: Vec<String>,
}

/// One reward of a spec.
pub(crate) struct Reward {
    pub name: String,
    pub weight: f64,
    pub gate: bool,
    /// The part of the answer that it looks at; all of it if `None`.
    pub of: Option<Of>,
    /// Further numbers that it gives, which are reported and do not count.
    pub parts: Vec<String>,
    pub judge: Judge,
}

impl Rewards {
    /// Reads a spec: `KIND`, `KIND:OPTION`, an http address, or the path of a TOML file.
    ///
    /// # Errors
    /// What is wrong with it, and what was expected.
    pub fn parse(spec: &str) -> Result<Rewards> {
        Setup::default().parse(spec)
    }

    /// Reads the text of a TOML file. `origin` names it in messages; files that it names are looked for beside it.
    ///
    /// # Errors
    /// What is wrong with it, and what was expected.
    pub fn from_toml(text: &str, origin: &std::path::Path) -> Result<Rewards> {
        Setup::default().from_toml(text, origin)
    }

    pub(crate) fn new(rewards: Vec<Reward>) -> Rewards {
        let names = rewards.iter().flat_map(|reward| {
            let parts = reward.parts.iter().map(|part| format!("{}.{part}", reward.name));
            std::iter::once(reward.name.clone()).chain(parts)
        });
        Rewards { names: names.collect(), rewards }
    }

    /// What the numbers of [`Score::parts`] are called: the rewards' names, each followed by `NAME.PART` for every part
    /// that its program or service reports.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether a record has what the rewards will ask it for, so that a prompt file can be checked before a run.
    ///
    /// # Errors
    /// The first thing that is missing, or that is not what it should be.
    pub fn check(&self, fields: &Fields) -> Result<(), Failure> {
        self.rewards.iter().try_for_each(|reward| match &reward.judge {
            Judge::Each(judge) => judge.check(fields).map_err(|reason| reward.failure(reason)),
            Judge::Together(_) => Ok(()),
        })
    }

    /// Judges answers: one result for each, in their order. Programs and services judge many at a time, so hand over
    /// all there are. It takes as long as their time limits allow, and no longer.
    pub fn score(&self, answers: &[Answer<'_>]) -> Vec<Result<Score, Failure>> {
        let mut columns: Vec<_> =
            self.rewards.iter().map(|reward| reward.values(answers).into_iter()).collect();
        let mut score = || {
            // Every column goes on, also past a failure.
            let row: Vec<_> = columns.iter_mut().filter_map(Iterator::next).collect();
            self.sum(row)
        };
        answers.iter().map(|_| score()).collect()
    }

    /// The score of an answer, from what each reward said.
    fn sum(&self, row: Vec<Values>) -> Result<Score, Failure> {
        let mut score = Score { total: 0.0, parts: Vec::with_capacity(self.names.len()) };
        let mut is_open = true;
        for (reward, values) in self.rewards.iter().zip(row) {
            let values = values.map_err(|reason| reward.failure(reason))?;
            let value = values.first().copied().unwrap_or_default();
            score.total += reward.weight * value;
            is_open &= !(reward.gate && value == 0.0);
            score.parts.extend(values);
        }
        if !score.total.is_finite() {
            let reason = format!("the weighted sum of {:?} is not finite", score.parts);
            return Err(Failure { reward: "total".to_owned(), reason, tries: 1 });
        }
        if !is_open {
            score.total = 0.0;
        }
        Ok(score)
    }
}

impl fmt::Debug for Rewards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Rewards").field(&self.names).finish()
    }
}

impl Reward {
    /// What it says of each answer: the reward, then the further parts. All are finite.
    fn values(&self, answers: &[Answer<'_>]) -> Vec<Values> {
        // What is there to be looked at; an answer without it is worth 0.
        let mut values: Vec<Values> = Vec::with_capacity(answers.len());
        let (mut seen, mut places) = (Vec::new(), Vec::new());
        for (i, answer) in answers.iter().enumerate() {
            let text = match &self.of {
                None => Ok(Some(answer.text)),
                Some(of) => of.find(answer.text),
            };
            match text {
                Ok(Some(text)) => {
                    seen.push(Seen { text, answer: *answer });
                    places.push(i);
                    values.push(Err(Reason::from("it was not judged".to_owned())));
                }
                Ok(None) => values.push(Ok(vec![0.0; 1 + self.parts.len()])),
                Err(reason) => values.push(Err(reason)),
            }
        }
        let judged: Vec<_> = match &self.judge {
            Judge::Each(judge) => seen.iter().map(|seen| Ok(vec![judge.judge(seen)?])).collect(),
            Judge::Together(judges) => judges.judge(&seen),
        };
        for (i, judged) in places.into_iter().zip(judged) {
            values[i] = judged.and_then(|judged| match judged.iter().find(|value| !value.is_finite()) {
                Some(value) => Err(Reason::from(format!("expected a finite number, found {value}"))),
                None => Ok(judged),
            });
        }
        values
    }

    fn failure(&self, reason: Reason) -> Failure {
        Failure { reward: self.name.clone(), reason: reason.text, tries: reason.tries }
    }
}
