// targets: sm_80
// printf on the device.
#include <stdio.h>

extern "C" __global__ void greet(const float* x, int* counts) {
    int i = threadIdx.x;
    counts[2 * i] = printf("thread %d of %s: %6.2f %c %08llx %e|%-5u|%+d %hhd\n", i, "block", x[i], 'a' + i % 26,
                           0x123456789aull * i, 1.5e10 * i, i, i - 1, (char)(200 + i));
    counts[2 * i + 1] = printf("100%%\n");
}

// Only some lanes, at different places.
extern "C" __global__ void some(int n) {
    if (threadIdx.x == 5)
        printf("five %p\n", (void*)nullptr);
    else if (threadIdx.x % 16 == 0)
        printf("%*d|%.*f\n", n, (int)threadIdx.x, 2, 1.0 / 3);
}
