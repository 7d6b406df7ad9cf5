// Runs the kernels of vectors.ptx on the GPU and writes what they computed to vectors/, for `cargo test` to replay.
// Needs a GPU of compute capability 9.0 and its driver; see README.md beside it.
#include <cuda.h>
#include <dlfcn.h>
#include <sys/stat.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

// The driver is opened when it runs, so that building needs no driver.
template <typename Function>
Function* find(void* driver, const char* name, bool required) {
    void* symbol = dlsym(driver, name);
    if (!symbol && required) {
        std::fprintf(stderr, "the driver has no %s\n", name);
        std::exit(2);
    }
    return reinterpret_cast<Function*>(symbol);
}
#define TEXT_OF(name) #name
#define NAME_OF(function) TEXT_OF(function)
#define FIND(function) find<decltype(function)>(driver, NAME_OF(function), true)

void check(CUresult result, const char* what) {
    if (result != CUDA_SUCCESS) {
        std::fprintf(stderr, "%s: CUDA error %d\n", what, static_cast<int>(result));
        std::exit(2);
    }
}

uint64_t fnv(const std::vector<uint8_t>& data) {
    uint64_t value = 0xcbf29ce484222325;
    for (uint8_t byte : data) value = (value ^ byte) * 0x100000001b3;
    return value;
}

constexpr size_t kInputBytes = 32768;

// The inputs as kernels.rs makes them; their hashes in the plan must agree.
struct Inputs {
    static uint64_t random(uint64_t& state) {
        state += 0x9e3779b97f4a7c15;
        uint64_t z = state;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
        z = (z ^ z >> 27) * 0x94d049bb133111eb;
        return z ^ z >> 31;
    }

    // A whole number of magnitude below 4 in a format of these many bits.
    static uint64_t small(int whole, int exponent_bits, int mantissa_bits) {
        uint64_t magnitude = std::abs(whole), bits = 0;
        if (magnitude) {
            uint64_t e = magnitude >= 2, bias = (uint64_t{1} << (exponent_bits - 1)) - 1;
            bits = (e + bias) << mantissa_bits | (magnitude - (uint64_t{1} << e)) << (mantissa_bits - e);
        }
        return bits | (whole < 0 ? uint64_t{1} << (exponent_bits + mantissa_bits) : 0);
    }

    static std::vector<uint8_t> make(unsigned number) {
        uint64_t state = number;
        std::vector<uint8_t> out;
        auto put = [&](uint64_t value, int bytes) {
            for (int i = 0; i < bytes; i++) out.push_back(static_cast<uint8_t>(value >> (8 * i)));
        };
        while (out.size() < kInputBytes) {
            uint64_t r = random(state);
            uint32_t high = static_cast<uint32_t>(r >> 32);
            int whole = static_cast<int32_t>(high) % 4;
            switch (number) {
                case 0: put(r, 8); break;
                case 1: put(small(whole, 5, 10), 2); break;
                case 2: put(small(whole, 8, 7), 2); break;
                case 3: put(small(whole, 8, 23), 4); break;
                case 4: put(small(whole, 11, 52), 8); break;
                case 5: put(small(whole, 4, 3), 1); break;
                case 6: put(small(whole, 5, 2), 1); break;
                case 7: put(high & 0xff, 1); break;
                case 8: {
                    const uint32_t edges[] = {0,          0x80000000, 0x7f800000, 0xff800000,
                                              0x3f800000, 0xbf800000, 0x7fc00000, 1};
                    size_t at = out.size() / 4;
                    uint32_t exponent = 127 - 24 + static_cast<uint32_t>(r % 49);
                    put(at < 8 ? edges[at] : (high & 0x807fffff) | exponent << 23, 4);
                    break;
                }
                default: put((high & 0x807fffff) | (126 + static_cast<uint32_t>(r % 3)) << 23, 4);
            }
        }
        return out;
    }
};

struct Map {
    unsigned type, swizzle, nan_fill, over_output, rank;
    std::vector<cuuint64_t> dims, strides;
    std::vector<cuuint32_t> box, steps;
};

struct Vector {
    std::string family, kernel, name;
    unsigned block, input, words, digest;
    uint64_t hash;
    bool has_map = false;
    Map map;
};

std::vector<Vector> read_plan(const std::string& path) {
    std::ifstream file(path);
    if (!file) {
        std::fprintf(stderr, "%s cannot be read\n", path.c_str());
        std::exit(2);
    }
    std::vector<Vector> all;
    for (std::string line; std::getline(file, line);) {
        std::istringstream words(line);
        std::string kind;
        words >> kind;
        if (kind == "input") {
            unsigned number;
            uint64_t hash;
            words >> number >> std::hex >> hash;
            if (fnv(Inputs::make(number)) != hash) {
                std::fprintf(stderr, "input %u is not what the plan expects\n", number);
                std::exit(2);
            }
        } else if (kind == "vector") {
            Vector v;
            words >> v.family >> v.kernel >> v.block >> v.input >> v.words >> v.digest >> std::hex >> v.hash;
            std::getline(words >> std::ws, v.name);
            all.push_back(v);
        } else if (kind == "map") {
            Vector& v = all.back();
            Map& m = v.map;
            v.has_map = true;
            words >> m.type >> m.swizzle >> m.nan_fill >> m.over_output >> m.rank;
            auto numbers = [&](auto& list, unsigned count) {
                list.resize(count);
                for (auto& item : list) words >> item;
            };
            numbers(m.dims, m.rank);
            numbers(m.strides, m.rank - 1);
            numbers(m.box, m.rank);
            numbers(m.steps, m.rank);
        }
    }
    return all;
}

std::string read_file(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    std::stringstream text;
    text << file.rdbuf();
    if (!file) {
        std::fprintf(stderr, "%s cannot be read\n", path.c_str());
        std::exit(2);
    }
    return text.str();
}

int main(int argc, char** argv) {
    std::string folder = argc > 1 ? argv[1] : ".", out = argc > 2 ? argv[2] : folder + "/vectors";
    // A cubin made of vectors.ptx, where the driver is too old to compile it.
    std::string image = read_file(argc > 3 ? argv[3] : folder + "/vectors.ptx");
    std::vector<Vector> plan = read_plan(folder + "/plan.txt");

    void* driver = dlopen("libcuda.so.1", RTLD_NOW);
    if (!driver) {
        std::fprintf(stderr, "no driver: %s\n", dlerror());
        return 2;
    }
    auto* init = FIND(cuInit);
    auto* driver_version = FIND(cuDriverGetVersion);
    auto* get_device = FIND(cuDeviceGet);
    auto* get_name = FIND(cuDeviceGetName);
    auto* retain = FIND(cuDevicePrimaryCtxRetain);
    auto* set_current = FIND(cuCtxSetCurrent);
    auto* load = FIND(cuModuleLoadData);
    auto* get_function = FIND(cuModuleGetFunction);
    auto* alloc = FIND(cuMemAlloc);
    auto* upload = FIND(cuMemcpyHtoDAsync);
    auto* download = FIND(cuMemcpyDtoHAsync);
    auto* fill = FIND(cuMemsetD8Async);
    auto* launch = FIND(cuLaunchKernel);
    auto* synchronize = FIND(cuStreamSynchronize);
    auto* create_stream = FIND(cuStreamCreate);
    auto* encode = FIND(cuTensorMapEncodeTiled);
    auto* query = find<decltype(cuStreamQuery)>(driver, NAME_OF(cuStreamQuery), false);
    auto* reset = find<decltype(cuDevicePrimaryCtxReset)>(driver, NAME_OF(cuDevicePrimaryCtxReset), false);

    check(init(0), "cuInit");
    CUdevice device;
    check(get_device(&device, 0), "cuDeviceGet");
    char device_name[256] = {};
    check(get_name(device_name, sizeof device_name, device), "cuDeviceGetName");
    int version = 0;
    check(driver_version(&version), "cuDriverGetVersion");

    constexpr size_t kOutputBytes = 1 << 20;
    CUcontext context = nullptr;
    CUmodule module = nullptr;
    CUdeviceptr input = 0, output = 0;
    CUstream stream = nullptr;
    // Also after a kernel that failed, which takes the context with it.
    auto begin = [&] {
        check(retain(&context, device), "cuDevicePrimaryCtxRetain");
        check(set_current(context), "cuCtxSetCurrent");
        check(load(&module, image.c_str()), "cuModuleLoadData");
        check(alloc(&input, kInputBytes), "cuMemAlloc");
        check(alloc(&output, kOutputBytes), "cuMemAlloc");
        check(create_stream(&stream, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
    };
    begin();
    mkdir(out.c_str(), 0777);
    std::map<std::string, std::string> files;
    std::vector<std::string> failed;
    auto save = [&] {
        for (auto& [family, data] : files) {
            std::ofstream file(out + "/" + family + ".bin", std::ios::binary);
            file << "VGPU" << data;
        }
        std::ofstream manifest(out + "/manifest.json");
        manifest << "{\n  \"device\": \"" << device_name << "\",\n  \"driver\": \"" << version / 1000 << "."
                 << version % 1000 / 10 << "\",\n  \"compiler\": \""
                 << (argc > 3 ? "a cubin of vectors.ptx" : "the driver, from vectors.ptx") << "\",\n  \"vectors\": "
                 << plan.size() - failed.size() << ",\n  \"failed\": [";
        for (size_t i = 0; i < failed.size(); i++) manifest << (i ? ", " : "") << '"' << failed[i] << '"';
        manifest << "]\n}\n";
    };
    auto put = [](std::string& to, uint64_t value, int bytes) {
        for (int i = 0; i < bytes; i++) to.push_back(static_cast<char>(value >> (8 * i)));
    };

    for (const Vector& v : plan) {
        std::vector<uint8_t> data = Inputs::make(v.input);
        CUfunction function;
        check(get_function(&function, module, v.kernel.c_str()), v.kernel.c_str());
        check(upload(input, data.data(), data.size(), stream), "cuMemcpyHtoDAsync");
        check(fill(output, 0x5a, kOutputBytes, stream), "cuMemsetD8Async");
        alignas(64) CUtensorMap map;
        void* arguments[] = {&input, &output, &map};
        CUresult result = CUDA_SUCCESS;
        if (v.has_map) {
            const Map& m = v.map;
            result = encode(&map, static_cast<CUtensorMapDataType>(m.type), m.rank,
                            reinterpret_cast<void*>(m.over_output ? output : input), m.dims.data(), m.strides.data(),
                            m.box.data(), m.steps.data(), CU_TENSOR_MAP_INTERLEAVE_NONE,
                            static_cast<CUtensorMapSwizzle>(m.swizzle), CU_TENSOR_MAP_L2_PROMOTION_NONE,
                            m.nan_fill ? CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA
                                       : CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
        }
        if (result == CUDA_SUCCESS) {
            result = launch(function, 1, 1, 1, v.block, 1, 1, 0, stream, arguments, nullptr);
        }
        // A kernel that hangs would hang the process: it is given up with what is known.
        auto start = std::chrono::steady_clock::now();
        while (query && result == CUDA_SUCCESS) {
            CUresult state = query(stream);
            if (state != CUDA_ERROR_NOT_READY) {
                result = state;
                break;
            }
            if (std::chrono::steady_clock::now() - start > std::chrono::seconds(20)) {
                std::fprintf(stderr, "%s does not end\n", v.name.c_str());
                failed.push_back(v.name);
                save();
                std::_Exit(3);
            }
            std::this_thread::yield();
        }
        if (result == CUDA_SUCCESS) result = synchronize(stream);
        std::vector<uint32_t> words(v.words);
        if (result == CUDA_SUCCESS) {
            check(download(words.data(), output, 4 * words.size(), stream), "cuMemcpyDtoHAsync");
            result = synchronize(stream);
        }
        if (result != CUDA_SUCCESS) {
            std::fprintf(stderr, "%s: CUDA error %d\n", v.name.c_str(), static_cast<int>(result));
            failed.push_back(v.name);
            if (!v.has_map || result != CUDA_ERROR_INVALID_VALUE) {
                if (!reset) return save(), 3;
                check(reset(device), "cuDevicePrimaryCtxReset");
                begin();
            }
            continue;
        }
        if (v.digest) {
            std::vector<uint32_t> digests;
            for (size_t i = 0; i < words.size(); i += 32) {
                uint32_t value = 0x811c9dc5;
                for (size_t j = i; j < std::min(i + 32, words.size()); j++) value = (value ^ words[j]) * 0x01000193;
                digests.push_back(value);
            }
            words = digests;
        }
        std::string& file = files[v.family];
        put(file, v.hash, 8);
        put(file, words.size(), 4);
        for (uint32_t word : words) put(file, word, 4);
    }
    save();
    std::printf("%s: %zu of %zu vectors recorded\n", device_name, plan.size() - failed.size(), plan.size());
    return failed.empty() ? 0 : 1;
}
