// Tiles, stages and roles of the Hopper matrix products, and their shared memory.
//
// Warpgroups 0 to kNumConsumers - 1 multiply and store (consumers), the last one loads (producer). Cooperative consumers
// share a tile, 64 rows each. Ping-pong consumers take tiles in turn, so that one stores while the other multiplies.
// kClusterM CTAs one above another in a cluster share their columns: each loads its part of B for all.
#pragma once

#include <cstdint>

#include "ptx/mbarrier.cuh"
#include "types.cuh"

enum class Roles { kSingle, kCooperative, kPingPong };

constexpr uint32_t kWarpgroupThreads = 128;
constexpr int kPanelColumns = 64;  // 128 bytes: the width of a swizzled panel of T

template <
    class T_, int kBlockM_, int kBlockN_, int kNumStages_, int kNumPanels_, Roles kRoles_, int kClusterM_ = 1,
    bool kGatherA_ = false>
struct WgmmaConfig {
    using T = T_;
    static constexpr int kBlockM = kBlockM_;
    static constexpr int kBlockN = kBlockN_;
    static constexpr int kBlockK = 64;
    static constexpr int kNumStages = kNumStages_;
    static constexpr int kNumPanels = kNumPanels_;  // staging buffers of a consumer for the way out
    static constexpr Roles kRoles = kRoles_;
    static constexpr int kClusterM = kClusterM_;
    static constexpr bool kGatherA = kGatherA_;  // rows of A through cp.async by an index, not by tensor copies

    static constexpr int kNumConsumers = kRoles == Roles::kSingle ? 1 : 2;
    static constexpr int kConsumersPerTile = kRoles == Roles::kCooperative ? 2 : 1;
    static constexpr int kConsumerRows = kBlockM / kConsumersPerTile;
    static constexpr int kMmaTiles = kConsumerRows / 64;  // products of 64 rows, a consumer
    static constexpr int kNumConsumerThreads = kNumConsumers * static_cast<int>(kWarpgroupThreads);
    static constexpr int kNumThreads = kNumConsumerThreads + static_cast<int>(kWarpgroupThreads);

    // Registers a thread: 65536 an SM, in the consumers' hands but for what the producer needs.
    static constexpr bool kMovesRegisters = kNumConsumers == 2;
    static constexpr int kProducerRegisters = kGatherA ? 56 : 40;
    static constexpr int kConsumerRegisters = kGatherA ? 224 : 232;

    static constexpr int kLoadRowsB = kBlockN / kClusterM;  // of B by each CTA
    static constexpr int kBytesA = kBlockM * kBlockK * static_cast<int>(sizeof(T));
    static constexpr int kBytesB = kBlockN * kBlockK * static_cast<int>(sizeof(T));
    // An SM: two where two fit its shared memory, with what else they keep there.
    static constexpr int kMinBlocks =
        kRoles == Roles::kSingle && kNumStages * (kBytesA + kBytesB) <= 100 * 1024 ? 2 : 1;
    // cp.async stages that a gathering producer leaves under way before it hands over the oldest. Consumers give a stage
    // back when the next one is under way, so two must stay between them.
    static constexpr int kGatherLag = kNumStages - 2 < 3 ? kNumStages - 2 : 3;

    static_assert(sizeof(T) == 2 && kBlockM % 64 == 0 && kConsumerRows % 64 == 0);
    static_assert(kLoadRowsB % 8 == 0 && kBlockN % 8 == 0 && kBlockM <= 256 && kLoadRowsB <= 256);
    static_assert(!kGatherA || kGatherLag >= 1);
};

// Tiles need 1024-byte alignment for the swizzle.
template <class Config>
struct alignas(1024) WgmmaOperandStages {
    using T = typename Config::T;
    T a[Config::kNumStages][Config::kBlockM * Config::kBlockK];
    T b[Config::kNumStages][Config::kBlockN * Config::kBlockK];
};

template <class Config>
struct WgmmaBarriers {
    uint64_t full[Config::kNumStages];
    uint64_t empty[Config::kNumStages];
    uint64_t turn[2];  // ping-pong: consumer i may multiply

    // By one thread.
    __device__ __forceinline__ void init() {
        // Gathering warps arrive one by one beside the thread that expects B's bytes.
        constexpr int kFullArrivals = Config::kGatherA ? 1 + kWarpgroupThreads / kWarpSize : 1;
        for (int stage = 0; stage < Config::kNumStages; ++stage) {
            ptx::mbarrier_init(&full[stage], kFullArrivals);
            // Other CTAs write into this one's B, so their stages must be free too.
            ptx::mbarrier_init(&empty[stage], Config::kConsumersPerTile * Config::kClusterM);
        }
        for (uint64_t& barrier : turn) ptx::mbarrier_init(&barrier, 1);
    }
};

// The place in the ring of stages.
template <int kNumStages>
struct RingPosition {
    int stage = 0;
    uint32_t phase = 0;

    __device__ __forceinline__ void advance() {
        if (++stage == kNumStages) {
            stage = 0;
            phase ^= 1;
        }
    }
    __device__ __forceinline__ void advance(int count) {
        const int next = stage + count;
        phase ^= next / kNumStages & 1;
        stage = next % kNumStages;
    }
};
