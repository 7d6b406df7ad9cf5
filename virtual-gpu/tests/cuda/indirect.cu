// targets: sm_80 sm_90a
// Calls through addresses: function pointers in tables, arguments and memory, and virtual member functions.
#include <new>

typedef float (*Unary)(float);
__device__ __noinline__ float increment(float x) { return x + 1; }
__device__ __noinline__ float twice(float x) { return 2 * x; }
// Talks to its neighbour through shared memory of its own.
__device__ __noinline__ float from_neighbour(float x) {
    __shared__ float row[64];
    row[threadIdx.x] = x;
    __syncthreads();
    return row[threadIdx.x ^ 1];
}
__device__ Unary in_memory[2] = {increment, twice};
__constant__ Unary in_constants[2] = {twice, increment};

// Each lane calls what its number says.
extern "C" __global__ void tables(const float* x, const int* which, float* out) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    out[i] = in_memory[which[i]](x[i]) - in_constants[which[i]](3 * x[i]);
}

// The whole block calls one function, which meets at a barrier.
extern "C" __global__ void whole_block(const float* x, float* out, int n) {
    Unary function = n > 1 ? from_neighbour : twice;
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    out[i] = function(x[i]);
}

struct Shape {
    float size;
    __device__ explicit Shape(float size) : size(size) {}
    virtual __device__ float area() const = 0;
    virtual __device__ void grow(float by) { size += by; }
};
struct Circle : Shape {
    __device__ explicit Circle(float radius) : Shape(radius) {}
    __device__ float area() const override { return 3 * size * size; }
};
struct Square : Shape {
    __device__ explicit Square(float side) : Shape(side) {}
    __device__ float area() const override { return size * size; }
    __device__ void grow(float by) override { size *= by; }
};

// Objects made by one kernel and used by another.
extern "C" __global__ void make_shapes(const float* x, char* shapes, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    if (i % 3 == 0)
        new (shapes + 16 * i) Circle(x[i]);
    else
        new (shapes + 16 * i) Square(x[i]);
}
extern "C" __global__ void use_shapes(char* shapes, float* out, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= n) return;
    Shape* shape = reinterpret_cast<Shape*>(shapes + 16 * i);
    shape->grow(2);
    out[i] = shape->area();
}

struct Wide {
    float values[5];
    int count;
};
typedef Wide (*Folding)(Wide, char, double, int2);
__device__ __noinline__ Wide first(Wide w, char c, double d, int2 e) {
    w.values[0] += c;
    w.values[4] += d;
    w.count += e.y;
    return w;
}
__device__ __noinline__ Wide second(Wide w, char c, double d, int2 e) {
    w.values[1] -= c;
    w.values[3] *= d;
    w.count -= e.x;
    return w;
}
extern "C" __global__ void structures(Wide* wide, int mask) {
    int i = threadIdx.x;
    Folding function = i & mask ? first : second;
    wide[i] = function(wide[i], (char)i, 2.0, make_int2(i, 7));
}

// Recursion that goes through pointers: the compiler cannot see its depth.
__device__ int apply(int (*function)(int), int n);
__device__ __noinline__ int leaf(int n) { return n + 5; }
__device__ __noinline__ int down(int n) { return n <= 0 ? 1 : apply(n % 3 ? down : leaf, n - 1) + n; }
__device__ __noinline__ int apply(int (*function)(int), int n) { return 2 * function(n) + n; }
extern "C" __global__ void recursive(int* out) { out[threadIdx.x] = apply(down, threadIdx.x % 11); }

// A pointer that the host has read from the device and passes on.
__device__ Unary exported = twice;
extern "C" __global__ void passed(Unary function, const float* x, float* out) {
    out[threadIdx.x] = function(x[threadIdx.x]);
}
