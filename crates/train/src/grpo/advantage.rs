//! From rewards to advantages: how much better an answer is than the others to the same prompt.
//!
//! ```text
//!   group   A_i = (r_i - mean of the group) / (standard deviation of the group + 1e-4)      Shao et al. 2024
//!   batch   A_i = (r_i - mean of the group) / (standard deviation of all rewards + 1e-4)    Hu et al. 2025
//!   none    A_i =  r_i - mean of the group                                                  Liu et al. 2025 (Dr. GRPO)
//! ```
//!
//! Standard deviations are those of a sample (n - 1). A group whose rewards are all equal has advantages of 0: nothing says
//! which way to go.

use serde::{Deserialize, Serialize};

/// What differences of rewards are divided by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scale {
    /// Their standard deviation in the group: easy and hard prompts count the same.
    Group,
    /// Their standard deviation over all groups of a step.
    Batch,
    /// Nothing: a group counts as much as its rewards differ.
    None,
}

/// Keeps the quotient finite where rewards hardly differ.
const LEAST: f64 = 1e-4;

/// The advantage of every reward, group by group.
pub fn advantages(groups: &[Vec<f64>], scale: Scale) -> Vec<Vec<f64>> {
    let of_all = deviation(&groups.concat());
    let of_group = |rewards: &Vec<f64>| {
        let mean = mean(rewards);
        let divisor = match scale {
            Scale::Group => deviation(rewards) + LEAST,
            Scale::Batch => of_all + LEAST,
            Scale::None => 1.0,
        };
        match differ(rewards) {
            true => rewards.iter().map(|reward| (reward - mean) / divisor).collect(),
            // The mean of equal numbers may differ from them by a rounding.
            false => vec![0.0; rewards.len()],
        }
    };
    groups.iter().map(of_group).collect()
}

/// Whether a group says anything.
pub fn differ(rewards: &[f64]) -> bool {
    rewards.windows(2).any(|two| two[0] != two[1])
}

/// The mean; 0 of nothing.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// The standard deviation of a sample; 0 of fewer than two.
pub fn deviation(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (values.len().max(2) - 1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_one_group() {
        // Deviation of 1, 0, 0.25, -0.5 around 0.1875: √(1.171875 / 3) = 0.625.
        let rewards = vec![vec![1.0, 0.0, 0.25, -0.5]];
        let expected = [0.8125, -0.1875, 0.0625, -0.6875];
        assert_eq!(advantages(&rewards, Scale::None)[0], expected);
        for scale in [Scale::Group, Scale::Batch] {
            for (found, expected) in advantages(&rewards, scale)[0].iter().zip(expected) {
                assert!((found - expected / 0.6251).abs() < 1e-12, "{found}");
            }
        }
    }

    #[test]
    fn groups_count_as_much_as_they_differ_unless_they_are_scaled() {
        let rewards = vec![vec![0.0, 1.0], vec![0.0, 0.1], vec![5.0, 5.0]];
        let [group, batch, none] =
            [Scale::Group, Scale::Batch, Scale::None].map(|scale| advantages(&rewards, scale));
        assert!((group[0][1] / group[1][1] - 1.0).abs() < 2e-3);
        assert!((batch[0][1] / batch[1][1] - 10.0).abs() < 1e-9);
        assert_eq!(none[0], [-0.5, 0.5]);
        for found in [group, batch, none] {
            assert_eq!(found[2], [0.0, 0.0]);
        }
    }

    #[test]
    fn equal_rewards_say_nothing() {
        // The mean of these is not exactly 0.1.
        let rewards = vec![vec![0.1; 3], vec![0.7], vec![]];
        assert_eq!(advantages(&rewards, Scale::Group), [vec![0.0; 3], vec![0.0], vec![]]);
        assert!(!differ(&rewards[0]) && !differ(&rewards[1]) && differ(&[1.0, 1.0, 2.0]));
    }
}
