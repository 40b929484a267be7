// Words from one place to another. What they mean does not matter: 32 bits are moved unchanged.
//
//   moves_copy      words_out[out_first + i] = words_in[in_first + i]
//   moves_gather    words_out[i, :]          = words_in[ids[i], :]        an id of no row gives zeros
//   moves_scatter   words_out[ids[i], :]     = words_in[i, :]             an id of no row is passed over
//   moves_fill      words_out[out_first + i] = word
//
// Rows have `width` words; ids: [rows]. The side that ids name rows of has `total` of them.
//
// A thread takes a word.

struct Move {
    count: u32, // words that are moved: those of all rows
    in_first: u32,
    out_first: u32,
    width: u32,
    total: u32,
    word: u32,
}

var<immediate> moved: Move;

@group(0) @binding(0) var<storage, read> words_in: array<u32>;
@group(0) @binding(1) var<storage, read_write> words_out: array<u32>;
@group(0) @binding(2) var<storage, read> ids: array<u32>;

@compute @workgroup_size(256)
fn moves_copy(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = element(group, groups, thread, moved.count);
    if i < moved.count {
        words_out[moved.out_first + i] = words_in[moved.in_first + i];
    }
}

@compute @workgroup_size(256)
fn moves_gather(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = element(group, groups, thread, moved.count);
    if i < moved.count {
        let id = ids[i / moved.width];
        var word = 0u;
        if id < moved.total {
            word = words_in[id * moved.width + i % moved.width];
        }
        words_out[i] = word;
    }
}

@compute @workgroup_size(256)
fn moves_scatter(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = element(group, groups, thread, moved.count);
    if i < moved.count {
        let id = ids[i / moved.width];
        if id < moved.total {
            words_out[id * moved.width + i % moved.width] = words_in[i];
        }
    }
}

@compute @workgroup_size(256)
fn moves_fill(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) thread: u32,
) {
    let i = element(group, groups, thread, moved.count);
    if i < moved.count {
        words_out[moved.out_first + i] = moved.word;
    }
}
