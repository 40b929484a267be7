// Cross-entropy of the next token: the loss and the entropy of every row of logits, and the gradient, written
// over the logits.
//
//   z[v]    = scale * cap * tanh(x[v] / cap)          only with a soft cap; else z = scale * x
//   p[v]    = e^(z[v] - largest) / sum                 largest: of the row's z; sum: of all e^(z - largest)
//   loss    = largest + log(sum) - z[target]
//   entropy = log(sum) - slant / sum                   slant: the sum of e^(z - largest) * (z - largest)
//
//   dz[v]   = weight * (p[v] - [v is the target])
//   dx[v]   = dz[v] * scale * (1 - tanh(x[v] / cap)^2)                   the last factor with a soft cap
//
// logits: [rows, width], of which the first `vocab` columns are tokens and the others padding, with gradient 0.
// targets: [rows]; a negative one means that the row does not count: loss, entropy and gradient are 0.
// loss, entropy, weights: [rows]; normaliser: [rows, 2], largest and sum.
// left_out: [rows, words], a bit for each token: bit v % 32 of word v / 32 is set where token v takes no part.
// -infinity in the logits says the same.
//
// The weights may depend on the losses, so the gradient is a kernel of its own, and may run much later. Both
// kernels give a workgroup a row, which its 256 threads walk 256 columns apart. cross_entropy_forward reads it
// once: largest and sum are brought up to date together ("online softmax"), and what the threads have is merged
// in workgroup memory as a tree, in one fixed order.
//
// A NaN or +infinity among the logits is found by its bits, for WGSL promises nothing of arithmetic with either:
// the row's loss is NaN.

struct Shape {
    rows: u32,
    vocab: u32,
    width: u32,
    words: u32, // of left_out, a row; 0 if nothing is left out
    scale: f32,
    soft_cap: f32, // 0 if there is none
}

var<immediate> shape: Shape;

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> targets: array<i32>;
@group(0) @binding(2) var<storage, read> left_out: array<u32>;
@group(0) @binding(3) var<storage, read_write> loss: array<f32>;
@group(0) @binding(4) var<storage, read_write> entropy: array<f32>;
@group(0) @binding(5) var<storage, read_write> normaliser_out: array<f32>;
@group(0) @binding(6) var<storage, read_write> gradient: array<f32>; // the logits at first
@group(0) @binding(7) var<storage, read> weights: array<f32>;
@group(0) @binding(8) var<storage, read> normaliser_in: array<f32>;

const THREADS: u32 = 256u;
// Stands for minus infinity, which WGSL cannot write: the smallest f32.
const LOWEST: f32 = -3.4028235e38;
// e^-104 is 0 in f32. A difference below is cut off here, before its exponential is taken.
const VANISHES: f32 = -104.0;

// What is known of some of a row's columns.
struct Sums {
    largest: f32,
    sum: f32,
    slant: f32,
    wrong: u32, // 1 if there was a NaN or +infinity
}

var<workgroup> partial: array<Sums, 256>;

// z of a logit, and dz / dx.
fn bend(x: f32) -> vec2<f32> {
    if shape.soft_cap == 0.0 {
        return vec2(shape.scale * x, shape.scale);
    }
    let e = exp(-2.0 * abs(x) / shape.soft_cap); // of a negative number: never too large
    let t = sign(x) * (1.0 - e) / (1.0 + e);
    return vec2(t * shape.soft_cap * shape.scale, shape.scale * (1.0 - t * t));
}

fn takes_part(row: u32, v: u32, x: f32) -> bool {
    if bitcast<u32>(x) == 0xff800000u {
        return false;
    }
    if shape.words == 0u {
        return true;
    }
    return ((left_out[row * shape.words + v / 32u] >> (v % 32u)) & 1u) == 0u;
}

// With one more z.
fn added(a: Sums, z: f32) -> Sums {
    let d = clamp(z - a.largest, VANISHES, -VANISHES);
    let e = exp(-abs(d));
    if d > 0.0 { // the largest so far: what was summed is less by e^-d
        return Sums(z, a.sum * e + 1.0, (a.slant - a.sum * d) * e, a.wrong);
    }
    return Sums(a.largest, a.sum + e, a.slant + e * d, a.wrong);
}

// The sums of both.
fn merged(a: Sums, b: Sums) -> Sums {
    let largest = max(a.largest, b.largest);
    let da = max(a.largest - largest, VANISHES);
    let db = max(b.largest - largest, VANISHES);
    let ea = exp(da);
    let eb = exp(db);
    return Sums(
        largest,
        a.sum * ea + b.sum * eb,
        (a.slant + a.sum * da) * ea + (b.slant + b.sum * db) * eb,
        a.wrong | b.wrong,
    );
}

// loss, entropy and normaliser are assigned.
@compute @workgroup_size(256)
fn cross_entropy_forward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = group.y * groups.x + group.x; // a grid dimension holds 65535 at most, so rows fill two
    if row >= shape.rows {
        return;
    }
    let start = row * shape.width;
    let of_row = targets[row];
    let counts = of_row >= 0;

    var sums = Sums(LOWEST, 0.0, 0.0, 0u);
    for (var v = thread; counts && v < shape.vocab; v += THREADS) {
        let x = logits[start + v];
        if takes_part(row, v, x) {
            if (bitcast<u32>(x) & 0x7fffffffu) >= 0x7f800000u {
                sums.wrong = 1u;
            } else {
                sums = added(sums, bend(x).x);
            }
        }
    }
    partial[thread] = sums;
    workgroupBarrier();
    for (var width = THREADS / 2u; width > 0u; width = width / 2u) {
        if thread < width {
            partial[thread] = merged(partial[thread], partial[thread + width]);
        }
        workgroupBarrier();
    }

    if thread > 0u {
        return;
    }
    if !counts {
        loss[row] = 0.0;
        entropy[row] = 0.0;
        normaliser_out[2u * row] = 0.0;
        normaliser_out[2u * row + 1u] = 1.0;
        return;
    }
    sums = partial[0];
    let token = u32(of_row);
    let logarithm = log(sums.sum);
    var of_loss = 0.0;
    var of_entropy = logarithm - sums.slant / sums.sum;
    if sums.wrong != 0u || token >= shape.vocab {
        var nan = 0x7fc00000u; // a variable, since a NaN may not be written as a constant
        of_loss = bitcast<f32>(nan);
        of_entropy = of_loss;
        sums.sum = of_loss;
    } else if !takes_part(row, token, logits[start + token]) {
        var infinity = 0x7f800000u;
        of_loss = bitcast<f32>(infinity);
    } else {
        of_loss = -(bend(logits[start + token]).x - (sums.largest + logarithm));
    }
    loss[row] = of_loss;
    entropy[row] = of_entropy;
    normaliser_out[2u * row] = sums.largest;
    normaliser_out[2u * row + 1u] = sums.sum;
}

// gradient holds the logits and is assigned.
@compute @workgroup_size(256)
fn cross_entropy_backward(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= shape.rows {
        return;
    }
    let start = row * shape.width;
    let of_row = targets[row];
    let weight = weights[row];
    let largest = normaliser_in[2u * row];
    let factor = weight / normaliser_in[2u * row + 1u];

    for (var v = thread; v < shape.width; v += THREADS) {
        let x = gradient[start + v];
        var dx = 0.0;
        if of_row >= 0 && v < shape.vocab && takes_part(row, v, x) {
            let z = bend(x);
            let of_target = select(0.0, weight, v == u32(of_row));
            dx = (exp(max(z.x - largest, VANISHES)) * factor - of_target) * z.y;
        }
        gradient[start + v] = dx;
    }
}
