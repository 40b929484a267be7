// RMSNorm, forward and backward, f32.
//
//   r[row]      = 1 / sqrt(mean over c of x[row,c]^2 + eps)
//   y[row,c]    = x[row,c] * r[row] * (offset + weight[c])
//
//   dx[row,c]   = r * g[c] * dy[row,c] - x[row,c] * r^3 / dim * sum over j of x[row,j] * g[j] * dy[row,j]
//   dweight[c] += sum over rows of dy[row,c] * x[row,c] * r[row]            with g = offset + weight
//
// x, y, dx, dy: [rows, dim]; weight, dweight: [dim]; scratch: r [rows], then sums [chunks, dim]. offset is 1 where a file
// stores weight - 1, else 0.
//
// rmsnorm_forward and rmsnorm_backward: a block takes a row. Its 256 threads walk the row 256 columns apart;
// a warp adds what its threads summed by shuffles, the eight warps meet in shared memory, in one fixed order.
// dweight is summed in two stages. rmsnorm_backward_weight: a block takes 32 columns of a chunk of rows, 8 threads a column
// walk its rows 8 apart; rmsnorm_backward_weight_total: 8 threads a column walk the chunks. No atomics: the same bits in
// each run. rmsnorm_small_forward is for short rows, such as the heads of q and k: a block takes 8
// rows, a warp each.
//
// No header is included: NVRTC compiles this file as it stands.

struct Shape {
    unsigned rows, dim;
    float eps, offset;
};

// Of rmsnorm_backward: a Shape, and what happens to dx.
struct Gradient {
    unsigned rows, dim;
    float eps, offset;
    unsigned accumulate; // 1: add to dx, 0: assign
};

// Of the sums for dweight.
struct Chunks {
    unsigned rows, dim;
    unsigned chunk_rows, chunks;
};

constexpr unsigned THREADS = 256;
constexpr unsigned WARPS = THREADS / 32;

// The sum of every thread's `value`, given to every thread.
__device__ float sum_of_block(float value) {
    __shared__ float warp_sums[WARPS];
    for (unsigned width = 16; width > 0; width /= 2) {
        value += __shfl_xor_sync(0xffffffffu, value, width);
    }
    if (threadIdx.x % 32 == 0) {
        warp_sums[threadIdx.x / 32] = value;
    }
    __syncthreads();
    float sum = 0.0f;
    for (unsigned warp = 0; warp < WARPS; ++warp) {
        sum += warp_sums[warp];
    }
    __syncthreads(); // nobody overwrites `warp_sums` before all have read it
    return sum;
}

extern "C" __global__ void __launch_bounds__(THREADS)
rmsnorm_forward(const float* __restrict__ x, const float* __restrict__ weight, float* __restrict__ y, Shape shape) {
    const unsigned row = blockIdx.y * gridDim.x + blockIdx.x; // the grid of the WGSL kernel, so one launcher serves both
    if (row >= shape.rows) {
        return;
    }
    x += (size_t)row * shape.dim;
    y += (size_t)row * shape.dim;

    float squares = 0.0f;
    for (unsigned c = threadIdx.x; c < shape.dim; c += THREADS) {
        squares += x[c] * x[c];
    }
    const float r = 1.0f / sqrtf(sum_of_block(squares) / (float)shape.dim + shape.eps);

    for (unsigned c = threadIdx.x; c < shape.dim; c += THREADS) {
        y[c] = x[c] * r * (shape.offset + weight[c]);
    }
}

extern "C" __global__ void __launch_bounds__(THREADS)
rmsnorm_small_forward(const float* __restrict__ x, const float* __restrict__ weight, float* __restrict__ y,
                      Shape shape) {
    const unsigned row = (blockIdx.y * gridDim.x + blockIdx.x) * WARPS + threadIdx.x / 32;
    if (row >= shape.rows) {
        return; // with its whole warp
    }
    x += (size_t)row * shape.dim;
    y += (size_t)row * shape.dim;

    float squares = 0.0f;
    for (unsigned c = threadIdx.x % 32; c < shape.dim; c += 32) {
        squares += x[c] * x[c];
    }
    for (unsigned width = 16; width > 0; width /= 2) {
        squares += __shfl_xor_sync(0xffffffffu, squares, width);
    }
    const float r = 1.0f / sqrtf(squares / (float)shape.dim + shape.eps);

    for (unsigned c = threadIdx.x % 32; c < shape.dim; c += 32) {
        y[c] = x[c] * r * (shape.offset + weight[c]);
    }
}

// dx is assigned or added to. r is written for rmsnorm_backward_weight, which runs next.
extern "C" __global__ void __launch_bounds__(THREADS)
rmsnorm_backward(const float* __restrict__ x, const float* __restrict__ weight, const float* __restrict__ dy,
                 float* __restrict__ dx, float* __restrict__ scratch, Gradient gradient) {
    const unsigned row = blockIdx.y * gridDim.x + blockIdx.x;
    if (row >= gradient.rows) {
        return;
    }
    x += (size_t)row * gradient.dim;
    dy += (size_t)row * gradient.dim;
    dx += (size_t)row * gradient.dim;

    float squares = 0.0f;
    float products = 0.0f;
    for (unsigned c = threadIdx.x; c < gradient.dim; c += THREADS) {
        squares += x[c] * x[c];
        products += x[c] * (gradient.offset + weight[c]) * dy[c];
    }
    const float dim = (float)gradient.dim;
    const float r = 1.0f / sqrtf(sum_of_block(squares) / dim + gradient.eps);
    const float along_x = sum_of_block(products) / dim * r * r * r;

    for (unsigned c = threadIdx.x; c < gradient.dim; c += THREADS) {
        const float value = r * (gradient.offset + weight[c]) * dy[c] - x[c] * along_x;
        dx[c] = gradient.accumulate ? dx[c] + value : value;
    }
    if (threadIdx.x == 0) {
        scratch[row] = r;
    }
}

// The sum of the 8 threads of a column, right in the first of them.
__device__ float sum_of_column(float value) {
    __shared__ float partial[8][32];
    partial[threadIdx.y][threadIdx.x] = value;
    __syncthreads();
    float sum = 0.0f;
    for (unsigned lane = 0; lane < 8; ++lane) {
        sum += partial[lane][threadIdx.x];
    }
    return sum;
}

// The sums of each chunk of rows.
extern "C" __global__ void __launch_bounds__(THREADS)
rmsnorm_backward_weight(const float* __restrict__ x, const float* __restrict__ dy, float* __restrict__ scratch,
                        Chunks split) {
    const unsigned c = blockIdx.x * 32 + threadIdx.x;
    const unsigned first = blockIdx.y * split.chunk_rows;
    float sum = 0.0f;
    if (c < split.dim) {
        for (unsigned row = first + threadIdx.y; row < min(first + split.chunk_rows, split.rows); row += 8) {
            const size_t i = (size_t)row * split.dim + c;
            sum += dy[i] * x[i] * scratch[row];
        }
    }
    sum = sum_of_column(sum);
    if (threadIdx.y == 0 && c < split.dim) {
        scratch[(size_t)blockIdx.y * split.dim + split.rows + c] = sum;
    }
}

// dweight is added to.
extern "C" __global__ void __launch_bounds__(THREADS)
rmsnorm_backward_weight_total(const float* __restrict__ scratch, float* __restrict__ dweight, Chunks split) {
    const unsigned c = blockIdx.x * 32 + threadIdx.x;
    float sum = 0.0f;
    if (c < split.dim) {
        for (unsigned chunk = threadIdx.y; chunk < split.chunks; chunk += 8) {
            sum += scratch[(size_t)chunk * split.dim + split.rows + c];
        }
    }
    sum = sum_of_column(sum);
    if (threadIdx.y == 0 && c < split.dim) {
        dweight[c] += sum;
    }
}
