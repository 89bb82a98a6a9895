// Settles the logic of a netlist: runs a list of operations on words of 64 runs each.
//
// An operation is four numbers: code, target, first and second operand. A place below `nets` is a
// net's words in `values`; one beyond is a result between the operations of one gate.

#include <cstdint>

extern "C" void evolute_settle(const int32_t* program, int64_t operations, uint64_t* values,
                               uint64_t* between, int64_t nets, int64_t words) {
    const auto place = [&](int32_t number) {
        return number < nets ? values + number * words : between + (number - nets) * words;
    };
    for (int64_t i = 0; i < operations; ++i, program += 4) {
        uint64_t* target = place(program[1]);
        const uint64_t* a = place(program[2]);
        const uint64_t* b = place(program[3]);
        switch (program[0]) {
            case 0:
                for (int64_t w = 0; w < words; ++w) target[w] = a[w] & b[w];
                break;
            case 1:
                for (int64_t w = 0; w < words; ++w) target[w] = a[w] | b[w];
                break;
            case 2:
                for (int64_t w = 0; w < words; ++w) target[w] = a[w] ^ b[w];
                break;
            default:
                for (int64_t w = 0; w < words; ++w) target[w] = ~a[w];
        }
    }
}
