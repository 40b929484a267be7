// The products of a linear layer, forward and backward, f32; and the forward in bf16 on tensor cores.
//
//   forward      y[m,n]   = sum over k of x[m,k] w[n,k]  (+ bias[n])
//   backward     dx[m,k]  = sum over n of dy[m,n] w[n,k]
//                dw[n,k] += sum over m of dy[m,n] x[m,k]
//                dbias[n]  = sum over m of dy[m,n], or that is added
//
// x, dx: [M, K]; w, dw: [N, K]; y, dy: [M, N]; bias, dbias: [N].
//
// The first three are one kernel, `matmul`: out[i,j] = sum over p of A(i,p) B(j,p), where two strides say how
// A and B lie in memory:
//                 out  i  j  p   A(i,p) = a[i*a_row + p*a_depth]   B(j,p) = b[j*b_row + p*b_depth]
//   forward       y    m  n  k   x:  a_row K, a_depth 1            w:  b_row K, b_depth 1
//   dx            dx   m  k  n   dy: a_row N, a_depth 1            w:  b_row 1, b_depth K
//   dw            dw   n  k  m   dy: a_row 1, a_depth N            x:  b_row 1, b_depth K
//
// How the work is split: a block of 16 x 16 threads makes a tile of 64 x 64 outputs, a thread 4 x 4 of them.
// For each 16 values of p the block brings 64 rows of A and of B into shared memory (8 KiB), then each thread
// multiplies. A thread walks p from 0 upward, alone: the bits of an output depend neither on the number of
// rows nor on the tile that it falls into.
//
// No header is included: NVRTC compiles this file as it stands.

struct Product {
    unsigned rows, cols, depth; // of out, and values of p
    unsigned a_row, a_depth, b_row, b_depth;
    unsigned has_bias;   // 1: add bias[j]
    unsigned accumulate; // 1: add to out, 0: assign
};

struct Columns {
    unsigned rows, cols;
    unsigned accumulate; // 1: add to dbias, 0: assign
};

constexpr unsigned TILE = 64;
constexpr unsigned DEPTH = 16;

// `matrix[row * row_stride + p * p_stride]`, or 0 beyond the edge, which adds nothing.
__device__ float load(const float* matrix, unsigned row, unsigned rows, unsigned row_stride, unsigned p, unsigned depth,
                      unsigned p_stride) {
    return row < rows && p < depth ? matrix[(size_t)row * row_stride + (size_t)p * p_stride] : 0.0f;
}

extern "C" __global__ void __launch_bounds__(256)
matmul(const float* __restrict__ a, const float* __restrict__ b, const float* __restrict__ bias,
       float* __restrict__ out, Product product) {
    // [p][q] holds rows 4q .. 4q+3 at depth p.
    __shared__ float4 tile_a[DEPTH][TILE / 4];
    __shared__ float4 tile_b[DEPTH][TILE / 4];

    const unsigned thread = threadIdx.y * 16 + threadIdx.x;
    const unsigned first_row = blockIdx.y * TILE;
    const unsigned first_col = blockIdx.x * TILE;

    // Neighbouring threads load neighbouring addresses: along p where p is contiguous, else along the rows.
    const bool a_along_p = product.a_depth == 1;
    const bool b_along_p = product.b_depth == 1;
    const unsigned a_p = a_along_p ? thread % DEPTH : thread / 16;
    const unsigned a_q = a_along_p ? thread / DEPTH : thread % 16;
    const unsigned b_p = b_along_p ? thread % DEPTH : thread / 16;
    const unsigned b_q = b_along_p ? thread / DEPTH : thread % 16;

    float sums[4][4] = {};
    for (unsigned start = 0; start < product.depth; start += DEPTH) {
        float av[4];
        float bv[4];
        for (unsigned r = 0; r < 4; ++r) {
            av[r] = load(a, first_row + 4 * a_q + r, product.rows, product.a_row, start + a_p, product.depth,
                         product.a_depth);
            bv[r] = load(b, first_col + 4 * b_q + r, product.cols, product.b_row, start + b_p, product.depth,
                         product.b_depth);
        }
        tile_a[a_p][a_q] = make_float4(av[0], av[1], av[2], av[3]);
        tile_b[b_p][b_q] = make_float4(bv[0], bv[1], bv[2], bv[3]);
        __syncthreads();
#pragma unroll
        for (unsigned p = 0; p < DEPTH; ++p) {
            const float4 a4 = tile_a[p][threadIdx.y];
            const float4 b4 = tile_b[p][threadIdx.x];
            const float column[4] = {a4.x, a4.y, a4.z, a4.w};
            const float row[4] = {b4.x, b4.y, b4.z, b4.w};
#pragma unroll
            for (unsigned r = 0; r < 4; ++r) {
#pragma unroll
                for (unsigned c = 0; c < 4; ++c) {
                    sums[r][c] = fmaf(column[r], row[c], sums[r][c]);
                }
            }
        }
        __syncthreads();
    }

#pragma unroll
    for (unsigned r = 0; r < 4; ++r) {
#pragma unroll
        for (unsigned c = 0; c < 4; ++c) {
            const unsigned i = first_row + 4 * threadIdx.y + r;
            const unsigned j = first_col + 4 * threadIdx.x + c;
            if (i < product.rows && j < product.cols) {
                float value = sums[r][c];
                if (product.has_bias == 1) {
                    value += bias[j];
                }
                const size_t at = (size_t)i * product.cols + j;
                out[at] = product.accumulate == 1 ? out[at] + value : value;
            }
        }
    }
}

// A block takes 32 columns; 8 threads a column walk the rows 8 apart.
extern "C" __global__ void __launch_bounds__(256)
matmul_backward_bias(const float* __restrict__ dy, float* __restrict__ dbias, Columns columns) {
    __shared__ float partial[8][32];
    const unsigned j = blockIdx.x * 32 + threadIdx.x;
    float sum = 0.0f;
    if (j < columns.cols) {
        for (unsigned i = threadIdx.y; i < columns.rows; i += 8) {
            sum += dy[(size_t)i * columns.cols + j];
        }
    }
    partial[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();

    if (threadIdx.y == 0 && j < columns.cols) {
        sum = 0.0f;
        for (unsigned lane = 0; lane < 8; ++lane) {
            sum += partial[lane][threadIdx.x];
        }
        dbias[j] = columns.accumulate == 1 ? dbias[j] + sum : sum;
    }
}

// ---- bf16 on tensor cores (sm_80 and later): y[m,n] = sum over k of x[m,k] w[n,k] (+ bias[n]) ----
//
// x, w: bf16, the upper half of an f32; y, bias: f32; sums in f32. A block of four warps makes 64 x 64
// outputs, a warp 32 x 32 of them as 2 x 4 products of 16 x 8 (mma.sync.m16n8k16). Which element of a product
// each thread of a warp holds, with g = lane / 4 and t = lane % 4 (PTX ISA, "Matrix Fragments for
// mma.m16n8k16"):
//
//   A 16 x 16:  a0 = [g][2t, 2t+1]   a1 = [g+8][2t, 2t+1]   a2 = [g][2t+8, 2t+9]   a3 = [g+8][2t+8, 2t+9]
//   B 16 x 8 :  b0 = [2t, 2t+1][g]   b1 = [2t+8, 2t+9][g]
//   C 16 x 8 :  c0, c1 = [g][2t, 2t+1]   c2, c3 = [g+8][2t, 2t+1]
//
// A pair is two neighbours along k, so one 32-bit read of a row of x or w. k is walked from 0 upward, 16 at a
// time.

struct Bf16Product {
    unsigned rows, cols, depth; // M, N, K
    unsigned has_bias;
};

constexpr unsigned BF16_DEPTH = 32;
constexpr unsigned BF16_STRIDE = BF16_DEPTH + 8; // 8 more than needed: the 32 reads of a warp then hit 32 banks

// Brings rows first .. first+63, depths start .. start+31 of `matrix` [rows, depth] into `tile`; 0 beyond the
// edge.
__device__ void load_bf16_tile(unsigned short (*tile)[BF16_STRIDE], const unsigned short* __restrict__ matrix,
                               unsigned first, unsigned rows, unsigned start, unsigned depth) {
    for (unsigned chunk = threadIdx.x; chunk < TILE * BF16_DEPTH / 8; chunk += 128) {
        const unsigned row = chunk / (BF16_DEPTH / 8);
        const unsigned k = chunk % (BF16_DEPTH / 8) * 8;
        unsigned short* to = &tile[row][k];
        const unsigned short* from = matrix + (size_t)(first + row) * depth + start + k;
        if (first + row < rows && start + k + 8 <= depth && depth % 8 == 0) {
            *(uint4*)to = *(const uint4*)from; // rows begin on 16 bytes only where depth is a multiple of 8
        } else {
            for (unsigned i = 0; i < 8; ++i) {
                to[i] = first + row < rows && start + k + i < depth ? from[i] : (unsigned short)0;
            }
        }
    }
}

__device__ void multiply_16_8_16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
                 "{%0,%1,%2,%3};"
                 : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

extern "C" __global__ void __launch_bounds__(128)
matmul_bf16(const unsigned short* __restrict__ x, const unsigned short* __restrict__ w, const float* __restrict__ bias,
            float* __restrict__ y, Bf16Product product) {
    __shared__ __align__(16) unsigned short tile_x[TILE][BF16_STRIDE];
    __shared__ __align__(16) unsigned short tile_w[TILE][BF16_STRIDE];

    const unsigned first_row = blockIdx.y * TILE;
    const unsigned first_col = blockIdx.x * TILE;
    const unsigned warp_row = threadIdx.x / 64 * 32; // warps 0, 1 above, 2, 3 below
    const unsigned warp_col = threadIdx.x / 32 % 2 * 32;
    const unsigned g = threadIdx.x % 32 / 4;
    const unsigned t = threadIdx.x % 4;

    float sums[2][4][4] = {};
    for (unsigned start = 0; start < product.depth; start += BF16_DEPTH) {
        load_bf16_tile(tile_x, x, first_row, product.rows, start, product.depth);
        load_bf16_tile(tile_w, w, first_col, product.cols, start, product.depth);
        __syncthreads();
#pragma unroll
        for (unsigned k = 0; k < BF16_DEPTH; k += 16) {
            unsigned a[2][4];
            unsigned b[4][2];
#pragma unroll
            for (unsigned i = 0; i < 2; ++i) {
                const unsigned row = warp_row + 16 * i + g;
                a[i][0] = *(const unsigned*)&tile_x[row][k + 2 * t];
                a[i][1] = *(const unsigned*)&tile_x[row + 8][k + 2 * t];
                a[i][2] = *(const unsigned*)&tile_x[row][k + 2 * t + 8];
                a[i][3] = *(const unsigned*)&tile_x[row + 8][k + 2 * t + 8];
            }
#pragma unroll
            for (unsigned j = 0; j < 4; ++j) {
                const unsigned col = warp_col + 8 * j + g;
                b[j][0] = *(const unsigned*)&tile_w[col][k + 2 * t];
                b[j][1] = *(const unsigned*)&tile_w[col][k + 2 * t + 8];
            }
#pragma unroll
            for (unsigned i = 0; i < 2; ++i) {
#pragma unroll
                for (unsigned j = 0; j < 4; ++j) {
                    multiply_16_8_16(sums[i][j], a[i], b[j]);
                }
            }
        }
        __syncthreads();
    }

#pragma unroll
    for (unsigned i = 0; i < 2; ++i) {
#pragma unroll
        for (unsigned j = 0; j < 4; ++j) {
#pragma unroll
            for (unsigned e = 0; e < 4; ++e) {
                const unsigned row = first_row + warp_row + 16 * i + g + e / 2 * 8;
                const unsigned col = first_col + warp_col + 8 * j + 2 * t + e % 2;
                if (row < product.rows && col < product.cols) {
                    const float from = product.has_bias == 1 ? bias[col] : 0.0f;
                    y[(size_t)row * product.cols + col] = sums[i][j][e] + from;
                }
            }
        }
    }
}
