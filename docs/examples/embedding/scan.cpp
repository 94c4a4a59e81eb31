// scan FOLDER BATCH SEQLEN DIM DSTATE THREADS: as scan.c, in C++17.
#include <ssmcore.h>

#include <algorithm>
#include <fstream>
#include <initializer_list>
#include <iostream>
#include <stdexcept>
#include <string>
#include <vector>

// A float32 array in C order, with its memory.
struct Array {
    std::vector<float> values;
    ssmcore_array view{};

    explicit Array(std::initializer_list<int64_t> shape) {
        int64_t count = 1;
        view.type = SSMCORE_FLOAT32;
        view.ndim = static_cast<int32_t>(shape.size());
        std::copy(shape.begin(), shape.end(), view.shape);
        for (int i = view.ndim; i-- > 0; count *= view.shape[i]) view.strides[i] = count;
        values.resize(static_cast<size_t>(count));
        view.data = values.data();
    }
    Array(std::initializer_list<int64_t> shape, const std::string &path) : Array(shape) {
        std::ifstream file(path, std::ios::binary);
        if (!file.read(reinterpret_cast<char *>(values.data()), bytes())) throw std::runtime_error(path + ": cannot be read");
    }
    Array(const Array &) = delete;  // view points into values
    std::streamsize bytes() const { return static_cast<std::streamsize>(values.size() * sizeof(float)); }
};

void check(int status) {
    if (status != SSMCORE_OK) throw std::runtime_error(ssmcore_error());
}

int main(int argc, char **argv) try {
    if (argc != 7) throw std::runtime_error("usage: scan FOLDER BATCH SEQLEN DIM DSTATE THREADS");
    const std::string folder = std::string(argv[1]) + "/";
    const int64_t batch = std::stoll(argv[2]), seqlen = std::stoll(argv[3]), dim = std::stoll(argv[4]), dstate = std::stoll(argv[5]);
    Array u({batch, seqlen, dim}, folder + "u"), delta({batch, seqlen, dim}, folder + "delta"), A({dim, dstate}, folder + "A");
    Array B({batch, seqlen, 1, dstate}, folder + "B"), C({batch, seqlen, 1, dstate}, folder + "C"), out({batch, seqlen, dim});

    ssmcore_selective_scan_args args{};
    args.size = sizeof args;
    args.delta_softplus = 1;
    args.u = &u.view, args.delta = &delta.view, args.A = &A.view, args.B = &B.view, args.C = &C.view, args.out = &out.view;
    ssmcore_options options{};
    options.size = sizeof options;
    options.num_threads = std::stoi(argv[6]);
    check(ssmcore_selective_scan(&args, &options));

    std::ofstream(folder + "out", std::ios::binary).write(reinterpret_cast<const char *>(out.values.data()), out.bytes());
} catch (const std::exception &error) {
    std::cerr << error.what() << "\n";
    return 1;
}
