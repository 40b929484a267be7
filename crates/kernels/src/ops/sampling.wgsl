// From a row of logits to the k tokens that may come next with the largest logits; with k = 1, to the likeliest.
//
//   tokens   the k tokens with the largest x[v], from the largest on; of equal ones the lower token comes first
//   values   their x[v]
//   lse      log(sum over v of e^x[v]), so that x[v] - lse is the logarithm of token v's probability
//
// logits: [rows, width], of which the first `vocab` columns are tokens and the others padding, which is not read.
// likeliest: [rows, 1 + 2 k] words: lse, tokens, values, so that they come to the host together. k is at most 64.
//
// -infinity, NaN and +infinity are never chosen; they are told by their bits, for WGSL promises nothing of arithmetic
// with them. Where no token is left, the token is NO_TOKEN and its value the smallest f32. With a NaN or +infinity in
// the row, lse is NaN.
//
// A workgroup takes a row, which its 256 threads walk 256 columns apart. lse has the sum of cross_entropy.wgsl's loss,
// in its order.
//
// Each thread keeps the 4 best of its columns. Then the best of all threads' first ones is taken k times, by a
// tree, and leaves its thread's list. A list that has run empty is filled from the columns again, with what comes after
// the one just taken. This is rare: of the 64 largest logits in any order a thread has a quarter, on average.

struct Shape {
    rows: u32,
    vocab: u32,
    width: u32,
    k: u32,
}

var<immediate> shape: Shape;

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read_write> likeliest: array<u32>;

const THREADS: u32 = 256u;
const NO_TOKEN: u32 = 0xffffffffu;
// Stands for minus infinity, which WGSL cannot write: the smallest f32.
const LOWEST: f32 = -3.4028235e38;
// e^-104 is 0 in f32. A difference below is cut off here, before its exponential is taken.
const VANISHES: f32 = -104.0;

struct Candidate {
    value: f32,
    token: u32,
}

// Whether a comes before b in the order of the result.
fn is_before(a: Candidate, b: Candidate) -> bool {
    return a.value > b.value || (a.value == b.value && a.token < b.token);
}

// 0: a number; 1: -infinity; 2: NaN or +infinity.
fn kind(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    if (bits & 0x7fffffffu) < 0x7f800000u {
        return 0u;
    }
    return select(2u, 1u, bits == 0xff800000u);
}

var<workgroup> candidates: array<Candidate, 256>;

// The first of all threads' candidates, given to every thread.
fn first_of_workgroup(candidate: Candidate, thread: u32) -> Candidate {
    candidates[thread] = candidate;
    workgroupBarrier();
    for (var width = THREADS / 2u; width > 0u; width = width / 2u) {
        if thread < width && is_before(candidates[thread + width], candidates[thread]) {
            candidates[thread] = candidates[thread + width];
        }
        workgroupBarrier();
    }
    let first = candidates[0];
    workgroupBarrier(); // nobody overwrites `candidates` before all have read it
    return first;
}

// The sum of e^(x - largest) over some of a row's columns.
struct Sum {
    largest: f32,
    sum: f32,
    wrong: u32, // 1 if there was a NaN or +infinity
}

var<workgroup> partial: array<Sum, 256>;

fn added(a: Sum, x: f32) -> Sum {
    let d = clamp(x - a.largest, VANISHES, -VANISHES);
    let e = exp(-abs(d));
    if d > 0.0 { // the largest so far: what was summed is less by e^-d
        return Sum(x, a.sum * e + 1.0, a.wrong);
    }
    return Sum(a.largest, a.sum + e, a.wrong);
}

fn merged(a: Sum, b: Sum) -> Sum {
    let largest = max(a.largest, b.largest);
    let ea = exp(max(a.largest - largest, VANISHES));
    let eb = exp(max(b.largest - largest, VANISHES));
    return Sum(largest, a.sum * ea + b.sum * eb, a.wrong | b.wrong);
}

// lse of a row, right in the first thread.
fn log_sum_exp(start: u32, thread: u32) -> f32 {
    var sum = Sum(LOWEST, 0.0, 0u);
    for (var v = thread; v < shape.vocab; v += THREADS) {
        let x = logits[start + v];
        let kind_of_x = kind(x);
        if kind_of_x == 0u {
            sum = added(sum, x);
        } else if kind_of_x == 2u {
            sum.wrong = 1u;
        }
    }
    partial[thread] = sum;
    workgroupBarrier();
    for (var width = THREADS / 2u; width > 0u; width = width / 2u) {
        if thread < width {
            partial[thread] = merged(partial[thread], partial[thread + width]);
        }
        workgroupBarrier();
    }
    sum = partial[0];
    var nan = 0x7fc00000u; // a variable, since a NaN may not be written as a constant
    var minus_infinity = 0xff800000u;
    if sum.wrong != 0u {
        return bitcast<f32>(nan);
    }
    if sum.sum == 0.0 {
        return bitcast<f32>(minus_infinity);
    }
    return sum.largest + log(sum.sum);
}

// The best of a thread's columns, from the first on.
struct List {
    values: vec4<f32>,
    tokens: vec4<u32>,
}

// The first four of the thread's columns that come after `last`; of all if last's token is NO_TOKEN.
fn scan(start: u32, thread: u32, last: Candidate) -> List {
    var list = List(vec4(LOWEST), vec4(NO_TOKEN));
    for (var v = thread; v < shape.vocab; v += THREADS) {
        let candidate = Candidate(logits[start + v], v);
        if kind(candidate.value) != 0u || (last.token != NO_TOKEN && !is_before(last, candidate)) {
            continue;
        }
        if is_before(candidate, Candidate(list.values.w, list.tokens.w)) {
            list.values.w = candidate.value;
            list.tokens.w = candidate.token;
        }
        // The new one climbs to its place.
        if is_before(Candidate(list.values.w, list.tokens.w), Candidate(list.values.z, list.tokens.z)) {
            list.values = list.values.xywz;
            list.tokens = list.tokens.xywz;
        }
        if is_before(Candidate(list.values.z, list.tokens.z), Candidate(list.values.y, list.tokens.y)) {
            list.values = list.values.xzyw;
            list.tokens = list.tokens.xzyw;
        }
        if is_before(Candidate(list.values.y, list.tokens.y), Candidate(list.values.x, list.tokens.x)) {
            list.values = list.values.yxzw;
            list.tokens = list.tokens.yxzw;
        }
    }
    return list;
}

// likeliest is assigned.
@compute @workgroup_size(256)
fn sampling_top_k(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let row = group.y * groups.x + group.x;
    if row >= shape.rows {
        return;
    }
    let start = row * shape.width;
    let out = row * (1u + 2u * shape.k);

    let lse = log_sum_exp(start, thread);
    if thread == 0u {
        likeliest[out] = bitcast<u32>(lse);
    }
    var list = scan(start, thread, Candidate(LOWEST, NO_TOKEN));
    for (var i = 0u; i < shape.k; i++) {
        let first = first_of_workgroup(Candidate(list.values.x, list.tokens.x), thread);
        if thread == 0u {
            likeliest[out + 1u + i] = first.token;
            likeliest[out + 1u + shape.k + i] = bitcast<u32>(first.value);
        }
        if first.token != NO_TOKEN && first.token % THREADS == thread {
            list = List(vec4(list.values.yzw, LOWEST), vec4(list.tokens.yzw, NO_TOKEN));
            if list.tokens.x == NO_TOKEN {
                list = scan(start, thread, first);
            }
        }
    }
}
