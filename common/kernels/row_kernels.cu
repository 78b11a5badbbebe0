// 05.3 and 05.5 once more, in CUDA C++ and for bfloat16 alone. What a Triton block hides is written out: which thread
// loads what, in packs of 16 bytes, and how the threads of a row add up their sums. Rows are contiguous and full packs.
#include <cstdint>
#include <cuda_bf16.h>
#include <pybind11/pybind11.h>
#include <stdexcept>

constexpr int THREADS = 512;  // of a block, in warps of 32
constexpr int WIDTH = 8;      // bfloat16 numbers in the 16 bytes that a thread loads or stores at once

// 16 bytes, moved whole as a uint4: of a struct of bfloat16 the compiler would load one number, or two, at a time.
union Pack {
  uint4 whole;
  unsigned pairs[WIDTH / 2];
};

// A bfloat16 is the upper half of a float32.
__device__ float2 widen(unsigned pair) { return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000)}; }

__device__ unsigned narrow(float x, float y) {
  const __nv_bfloat162 rounded = __floats2bfloat162_rn(x, y);
  return reinterpret_cast<const unsigned&>(rounded);
}

// The sum over all threads of a block, in every one of them: within each warp by
// shuffles, then over the warps.
__device__ float block_sum(float value) {
  __shared__ float of_warp[THREADS / 32];
  for (int distance = 16; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(~0u, value, distance);
  }
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
  __syncthreads();
  float total = 0;
  for (int warp = 0; warp < THREADS / 32; ++warp) total += of_warp[warp];
  return total;
}

// Block n norms row n. Each thread keeps PACKS packs of it in registers: this
// needs a number that the compiler knows.
template <int PACKS>
__global__ void rms_norm_kernel(const uint4* x, const uint4* weight, uint4* out,
                                int packs, float eps) {
  x += int64_t(blockIdx.x) * packs;
  out += int64_t(blockIdx.x) * packs;
  Pack row[PACKS];
#pragma unroll
  for (int p = 0; p < PACKS; ++p) {  // all loads first, under way together
    const int at = p * THREADS + threadIdx.x;  // neighbours load neighbours
    row[p].whole = at < packs ? x[at] : uint4{};
  }
  float squares = 0;
#pragma unroll
  for (int p = 0; p < PACKS; ++p) {
    for (unsigned pair : row[p].pairs) {
      const float2 wide = widen(pair);
      squares += wide.x * wide.x + wide.y * wide.y;
    }
  }
  const float scale = rsqrtf(block_sum(squares) / (packs * WIDTH) + eps);
#pragma unroll
  for (int p = 0; p < PACKS; ++p) {
    const int at = p * THREADS + threadIdx.x;
    if (at >= packs) continue;
    const Pack factors = {weight[at]};
    for (int i = 0; i < WIDTH / 2; ++i) {
      const float2 wide = widen(row[p].pairs[i]), factor = widen(factors.pairs[i]);
      row[p].pairs[i] =
          narrow(wide.x * scale * factor.x, wide.y * scale * factor.y);
    }
    out[at] = row[p].whole;
  }
}

__device__ float silu(float gate) { return gate / (1 + __expf(-gate)); }

// Thread t of block (n, b) handles pack b * THREADS + t of row n.
__global__ void silu_and_mul_kernel(const uint4* gate_up, uint4* out, int packs) {
  const int at = blockIdx.y * THREADS + threadIdx.x;
  if (at >= packs) return;
  gate_up += int64_t(blockIdx.x) * 2 * packs;
  const Pack gates = {gate_up[at]}, ups = {gate_up[packs + at]};
  Pack result;
  for (int i = 0; i < WIDTH / 2; ++i) {
    const float2 gate = widen(gates.pairs[i]), up = widen(ups.pairs[i]);
    result.pairs[i] = narrow(silu(gate.x) * up.x, silu(gate.y) * up.y);
  }
  out[int64_t(blockIdx.x) * packs + at] = result.whole;
}

// What Python calls: tensors arrive as addresses, as they do in a Triton launch.
using Address = std::uintptr_t;

void check_launch() {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) throw std::runtime_error(cudaGetErrorString(error));
}

void rms_norm(Address x, Address weight, Address out, int rows, int columns, float eps, Address stream) {
  const int packs = columns / WIDTH;
  if (packs > 4 * THREADS) throw std::invalid_argument("a row has more than 16384 columns");
  const auto kernel = packs <= THREADS       ? rms_norm_kernel<1>
                      : packs <= 2 * THREADS ? rms_norm_kernel<2>
                                             : rms_norm_kernel<4>;
  kernel<<<rows, THREADS, 0, reinterpret_cast<cudaStream_t>(stream)>>>(
      reinterpret_cast<const uint4*>(x), reinterpret_cast<const uint4*>(weight), reinterpret_cast<uint4*>(out), packs,
      eps);
  check_launch();
}

void silu_and_mul(Address gate_up, Address out, int rows, int width, Address stream) {
  const int packs = width / WIDTH;
  const dim3 grid(rows, (packs + THREADS - 1) / THREADS);
  silu_and_mul_kernel<<<grid, THREADS, 0, reinterpret_cast<cudaStream_t>(stream)>>>(
      reinterpret_cast<const uint4*>(gate_up), reinterpret_cast<uint4*>(out), packs);
  check_launch();
}

PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  module.def("rms_norm", rms_norm);
  module.def("silu_and_mul", silu_and_mul);
}
