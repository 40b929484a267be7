//! Gradient descent.

use wootz_kernels::device::Gpu;
use wootz_kernels::device::launch::{from_f32, sgd::Sgd, to_f32};
use wootz_kernels::ops::sgd::{self as op, Momentum};

use crate::numbers::*;

/// Tries the kernel of this name; `None` if it is none of this op's.
pub fn cases<G: Gpu>(gpu: &G, kernel: &str) -> Option<usize> {
    const MOMENTA: [Option<Momentum>; 2] = [Some(Momentum::HeavyBall(0.9)), Some(Momentum::Nesterov(0.8))];
    Some(match kernel {
        "sgd_update" => {
            each_weight_moves_once(gpu);
            updates(gpu, &[None])
        }
        "sgd_update_momentum" => updates(gpu, &MOMENTA),
        _ => return None,
    })
}

fn updates<G: Gpu>(gpu: &G, momenta: &[Option<Momentum>]) -> usize {
    let mut cases = 0;
    for count in sizes().into_iter().chain([1000, 70_001]) {
        for &momentum in momenta {
            let options = op::Sgd { lr: 0.1, momentum, weight_decay: 0.05, grad_scale: 0.5 };
            let op = Sgd { count, options };
            let past = count + 7; // more elements than the kernel may touch
            let [w, g, m] = [1, 2, 3].map(|seed| numbers(past, seed));
            let [w_, g_, m_] = [&w, &g, &m].map(|x| from_f32(gpu, x).unwrap());
            op.update(gpu, &w_, &g_, momentum.map(|_| &m_)).unwrap();
            let (new_w, new_m) = (to_f32(gpu, &w_).unwrap(), to_f32(gpu, &m_).unwrap());
            let (mut near_w, mut near_m) = (Vec::new(), Vec::new());
            for i in 0..count {
                let [w, g, m] = [w[i], g[i], m[i]].map(f64::from);
                let [new_w, new_m] = op::reference(&options, [w, g, m]);
                // A handful of roundings of terms that are at most this large.
                let along = g.abs() + w.abs() + m.abs();
                near_w.push(Near(new_w, 2.0 * ULP * w.abs() + 8.0 * ULP * 0.1 * along));
                near_m.push(Near(new_m, 5.0 * ULP * along));
            }
            check(&format!("w of {op:?}"), &new_w, &near_w);
            check(&format!("m of {op:?}"), &new_m, &near_m);
            assert!(
                new_w[count..] == w[count..] && new_m[count..] == m[count..],
                "{op:?}: what is not its own"
            );
            cases += 1;
        }
    }
    let some = gpu.alloc(16).unwrap();
    let options = op::Sgd { lr: 0.1, momentum: momenta[0], weight_decay: 0.0, grad_scale: 1.0 };
    let wrong = if momenta[0].is_some() { None } else { Some(&some) };
    assert!(Sgd { count: 1, options }.update(gpu, &some, &some, wrong).is_err());
    assert!(Sgd { count: 5, options }.update(gpu, &some, &some, momenta[0].map(|_| &some)).is_err());
    Sgd { count: 0, options }.update(gpu, &some, &some, momenta[0].map(|_| &some)).unwrap();
    cases
}

/// So many weights that the workgroups fill two dimensions of the grid, with some to spare.
fn each_weight_moves_once<G: Gpu>(gpu: &G) {
    let count = 65_536 * 256 + 1;
    let options = op::Sgd { lr: 0.5, momentum: None, weight_decay: 0.0, grad_scale: 1.0 };
    let [w, g] = [8.0, 2.0].map(|value| from_f32(gpu, &vec![value; count + 5]).unwrap());
    Sgd { count, options }.update(gpu, &w, &g, None).unwrap();
    let found = to_f32(gpu, &w).unwrap();
    assert!(found[..count].iter().all(|&w| w == 7.0) && found[count..] == [8.0; 5]);
}
