// A Verilated core, its memory and its host, told what to do line by line on standard input.
//
// Usage: program IMAGE BASE BYTES SEED [WAVES] [+PLUSARG...]. Every command is answered by one
// line: `ok` and numbers, an event and numbers, or `error` and words. Numbers are decimal.
//
//   reset CYCLES                   hold the reset, and let it go
//   read COUNT OFFSET...           registers, each asked for as soon as the one before has been
//                                  -> ok and RESPONSE VALUE of each
//   write OFFSET VALUE STROBES     a register -> ok RESPONSE
//   step CYCLES                    let time pass
//   advance NAME VALUE             add to a count: now, or when the next program begins
//   address AFTER OFFSET           offer a write's address that many cycles from now, once those
//                                  offered before have been taken
//   data AFTER VALUE STROBES       the same for a write's data
//   hold AFTER CYCLES              take no write's answer in those cycles
//   watch CYCLES OFFSET AFTER      let time pass, and from then on read that register again and
//                                  again -> ok and four numbers for each that is seen, in order
//                                  of time: WHAT, the cycle since now, and two values, see `Seen`
//   run OFFSET VALUE LIMIT         write the register that starts a program, then wait
//   resume OFFSET VALUE LIMIT      write the register that ends a wait, in the host's cycle; wait
//   wait LIMIT                     for an event again
//   pins                           -> ok BUSY INTERRUPT
//   timing LATENCY BYTES CYCLES REFRESH_INTERVAL REFRESH HOST     exact time from here on
//   random SEED                    random time from here on
//   trap FIRST END WRITE RESPONSE  answer with an error in that range of addresses
//   silence FROM UNTIL             accept and answer nothing in those cycles of a program
//   calm                           forget traps and silence
//   cycles                         -> ok CYCLES, since power came on
//   violations                     -> ok COUNT since last asked, the first ones after tabs
//   quit
//
// Events: `idle` when busy ends, `interrupt` when it rises, `limit` when neither came in LIMIT
// cycles; then the program's cycle in which it was seen (cycle 0 is the first with busy), and the
// beats read and written since the start.
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <iostream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "Vtop.h"
#include "Vtop___024root.h"
#include "memory.h"
#include "monitor.h"
#include "verilated.h"
#if VM_TRACE
#include "verilated_vcd_c.h"
#endif

namespace {

template <std::size_t N>
void to_port(VlWide<N>& port, const Word& word) {
    static_assert(4 * N == BUS_BYTES);
    std::memcpy(port.data(), word.data(), BUS_BYTES);
}
template <std::size_t N>
void from_port(const VlWide<N>& port, Word& word) {
    std::memcpy(word.data(), port.data(), BUS_BYTES);
}
void to_port(QData& port, const Word& word) { std::memcpy(&port, word.data(), BUS_BYTES); }
void from_port(const QData& port, Word& word) { std::memcpy(word.data(), &port, BUS_BYTES); }

// The file that the memory's image is shared through.
class Image {
  public:
    Image(const char* path, std::uint64_t bytes) : bytes_(bytes) {
        const int file = open(path, O_RDWR);
        if (file < 0) throw std::runtime_error(std::string("cannot open ") + path);
        data_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
        close(file);
        if (data_ == MAP_FAILED) throw std::runtime_error(std::string("cannot map ") + path);
    }
    ~Image() { munmap(data_, bytes_); }
    Image(const Image&) = delete;
    Image& operator=(const Image&) = delete;
    std::uint8_t* data() const { return static_cast<std::uint8_t*>(data_); }

  private:
    void* data_;
    std::uint64_t bytes_;
};

// What `watch` tells, with its two values: the pins BUSY and INTERRUPT at first and when they
// change; a register's VALUE at first and when it changes, and 0; the taking of a write's address or
// data, 0 and 0; and of a write's answer, RESPONSE and 0.
enum class Seen { PINS, VALUE, ADDRESS, DATA, ANSWER };

// What the host is to put on a channel of AXI4-Lite in a cycle since power-on, or later.
struct Offer {
    std::int64_t cycle;
    std::uint32_t value;
    unsigned strobes;
};

// The core with its clock, and the AXI4-Lite master that the host is to it.
class Bench {
  public:
    static constexpr std::int64_t PATIENCE = 1000;  // cycles that an AXI4-Lite access may take
    static constexpr std::int64_t START = 4;        // cycles from a start's answer until busy

    Monitor monitor;
    std::int64_t cycles = 0;  // since power came on

    Bench(Memory& memory, std::uint64_t seed, const char* waves, int count, char** arguments)
        : memory_(memory), noise_(seed) {
        context_.commandArgs(count, arguments);  // for the design's $value$plusargs
        // Whatever reset does not define starts at random instead of at a lucky zero.
        context_.randReset(2);
        context_.randSeed(int(seed));
#if VM_TRACE
        context_.traceEverOn(true);
#endif
        top_ = std::make_unique<Vtop>(&context_);
#if VM_TRACE
        if (waves) {
            top_->trace(&trace_, 99);
            trace_.open(waves);
        }
#else
        if (waves) throw std::runtime_error("built without waves");
#endif
        top_->s_axi_awprot = top_->s_axi_arprot = 0;
    }

    ~Bench() {
        top_->final();
#if VM_TRACE
        if (trace_.isOpen()) trace_.close();
#endif
    }

    Bench(const Bench&) = delete;
    Bench& operator=(const Bench&) = delete;

    void reset(std::int64_t count) {
        wires_.reset = true;
        wires_.lite_aw.valid = wires_.lite_w.valid = wires_.lite_ar.valid = false;
        addresses_.clear();
        data_.clear();
        hold_until_ = 0;
        step(count);
        wires_.reset = false;
        step(1);
        rose_ = fell_ = false;
    }

    // Counts that only a program too long for any test would bring so far; SETTABLE names them.
    void advance(const std::string& name, std::uint64_t value) {
        bool known = false;
#define ADVANCE(title, member)                                                      \
    if (name == title) {                                                            \
        advances_.push_back([this, value] { top_->rootp->member += value; });       \
        known = true;                                                               \
    }
        SETTABLE(ADVANCE)
#undef ADVANCE
        if (!known) throw std::runtime_error("there is no count " + name);
    }

    void step(std::int64_t count) {
        for (std::int64_t i = 0; i < count; ++i) cycle();
    }

    std::vector<LiteChannel> read(const std::vector<std::uint32_t>& offsets) {
        std::vector<LiteChannel> answers;
        std::size_t asked = 0;
        for (std::int64_t i = 0; answers.size() < offsets.size(); ++i) {
            if (i == PATIENCE) throw std::runtime_error("no answer to an AXI-Lite read");
            LiteChannel& request = wires_.lite_ar;
            if (!request.valid && asked < offsets.size())
                request.valid = true, request.value = offsets[asked++];
            cycle();
            if (wires_.lite_r.moves()) answers.push_back(wires_.lite_r);
        }
        return answers;
    }

    unsigned write(std::uint32_t offset, std::uint32_t value, unsigned strobes = 15) {
        std::int64_t address_after = 0, data_after = 0;
        if (memory_.is_random()) {
            // Address or data come first.
            const bool data_first = memory_.dice().percent(50);
            (data_first ? address_after : data_after) = memory_.dice().below(3);
        }
        offer_address(address_after, offset);
        offer_data(data_after, value, strobes);
        answered_ = false;
        for (std::int64_t i = 0; !answered_; ++i) {
            if (i == PATIENCE) throw std::runtime_error("no answer to an AXI-Lite write");
            cycle();
        }
        return answer_.response;
    }

    void offer_address(std::int64_t after, std::uint32_t offset) {
        addresses_.push_back({cycles + after, offset, 0});
    }

    void offer_data(std::int64_t after, std::uint32_t value, unsigned strobes) {
        data_.push_back({cycles + after, value, strobes});
    }

    void hold(std::int64_t after, std::int64_t count) {
        hold_from_ = cycles + after;
        hold_until_ = hold_from_ + count;
    }

    std::string watch(std::int64_t count, std::uint32_t offset, std::int64_t after) {
        std::ostringstream line;
        line << "ok";
        const std::int64_t start = cycles;
        const auto tell = [&](Seen what, std::int64_t cycle, unsigned a, unsigned b) {
            line << ' ' << int(what) << ' ' << cycle << ' ' << a << ' ' << b;
        };
        int pins = -1;
        std::int64_t value = -1, asked = 0;
        for (std::int64_t i = 0; i < count; ++i) {
            LiteChannel& request = wires_.lite_ar;
            if (i >= after && !request.valid) request.valid = true, request.value = offset;
            cycle();
            if (const int now = 2 * wires_.busy + wires_.interrupt; now != pins)
                tell(Seen::PINS, i, wires_.busy, wires_.interrupt), pins = now;
            if (wires_.lite_r.moves() && wires_.lite_r.value != value)
                tell(Seen::VALUE, asked, value = wires_.lite_r.value, 0);
            if (taken_.request) asked = cycles - 1 - start;
            if (taken_.address) tell(Seen::ADDRESS, i, 0, 0);
            if (taken_.data) tell(Seen::DATA, i, 0, 0);
            if (wires_.lite_b.moves()) tell(Seen::ANSWER, i, wires_.lite_b.response, 0);
        }
        // Whoever asks next is to get an answer of its own.
        do cycle();
        while (wires_.lite_ar.valid || wires_.lite_r.valid || taken_.request);
        return line.str();
    }

    std::string run(std::uint32_t offset, std::uint32_t value, std::int64_t limit) {
        rose_ = fell_ = false;
        write(offset, value);
        step(START);
        if (!wires_.busy && !fell_) throw std::runtime_error("the program did not start");
        return wait(limit);
    }

    std::string resume(std::uint32_t offset, std::uint32_t value, std::int64_t limit) {
        const bool random = memory_.is_random();
        const std::int64_t host = random ? memory_.dice().below(40) : memory_.timing.host;
        step(std::max<std::int64_t>(0, rose_at_ + host - now_));
        write(offset, value);
        return wait(limit);
    }

    std::string wait(std::int64_t limit) {
        for (std::int64_t i = 0; i < limit && !rose_ && !fell_; ++i) cycle();
        const char* name = rose_ ? "interrupt" : fell_ ? "idle" : "limit";
        const std::int64_t seen = rose_ ? rose_at_ : fell_ ? fell_at_ : now_;
        (rose_ ? rose_ : fell_) = false;
        std::ostringstream line;
        line << name << ' ' << seen << ' ' << read_beats_ << ' ' << write_beats_;
        return line.str();
    }

    bool busy() const { return wires_.busy; }
    bool interrupt() const { return wires_.interrupt; }

  private:
    // One clock cycle: inputs settle, everything looks, then the rising edge.
    void cycle() {
        memory_.drive(now_, wires_);
        for (LiteChannel* answer : {&wires_.lite_r, &wires_.lite_b})
            answer->ready = !memory_.is_random() || memory_.dice().percent(50);
        if (cycles >= hold_from_ && cycles < hold_until_) wires_.lite_b.ready = false;
        put_on(wires_.lite_aw, addresses_);
        if (const Offer* offer = put_on(wires_.lite_w, data_)) strobes_ = offer->strobes;
        put_inputs();
        tick(false);
        const bool was_busy = wires_.busy, was_interrupt = wires_.interrupt;
        get_outputs();
        if (wires_.busy && !was_busy) {
            now_ = read_beats_ = write_beats_ = 0;
            memory_.restart();
        }
        monitor.check(now_, wires_);
        if (wires_.reset)
            memory_.restart();
        else
            memory_.clock(now_, wires_);
        clock_lite();
        read_beats_ += wires_.r.moves();
        write_beats_ += wires_.w.moves();
        if (wires_.interrupt && !was_interrupt) rose_ = true, rose_at_ = now_;
        if (!wires_.busy && was_busy) fell_ = true, fell_at_ = now_;
        tick(true);
        if (wires_.busy) {
            for (const auto& each : advances_) each();
            advances_.clear();
        }
        ++now_;
        ++cycles;
    }

    void tick(bool level) {
        top_->aclk = level;
        top_->eval();
#if VM_TRACE
        if (trace_.isOpen()) trace_.dump(std::uint64_t(cycles) * 10000 + (level ? 5000 : 0));
#endif
    }

    void put_inputs() {
        top_->aresetn = !wires_.reset;
        top_->m_axi_arready = wires_.ar.ready;
        top_->m_axi_awready = wires_.aw.ready;
        top_->m_axi_wready = wires_.w.ready;
        // Where nothing is valid, anything may be on a channel, and is.
        const auto payload = [this](bool valid, std::uint32_t value, std::uint32_t mask) {
            return (valid ? value : std::uint32_t(noise_.next())) & mask;
        };
        const LiteChannel &read = wires_.lite_ar, &address = wires_.lite_aw, &data = wires_.lite_w;
        top_->m_axi_rvalid = wires_.r.valid;
        top_->m_axi_rlast = payload(wires_.r.valid, wires_.r.last, 1);
        top_->m_axi_rresp = payload(wires_.r.valid, wires_.r.response, 3);
        if (wires_.r.valid) {
            to_port(top_->m_axi_rdata, wires_.r.data);
        } else {
            Word any;
            std::memset(any.data(), int(noise_.next()), BUS_BYTES);
            to_port(top_->m_axi_rdata, any);
        }
        top_->m_axi_bvalid = wires_.b.valid;
        top_->m_axi_bresp = payload(wires_.b.valid, wires_.b.response, 3);
        top_->s_axi_arvalid = read.valid;
        top_->s_axi_araddr = payload(read.valid, read.value, 0xFF);
        top_->s_axi_rready = wires_.lite_r.ready;
        top_->s_axi_awvalid = address.valid;
        top_->s_axi_awaddr = payload(address.valid, address.value, 0xFF);
        top_->s_axi_wvalid = data.valid;
        top_->s_axi_wdata = payload(data.valid, data.value, 0xFFFFFFFF);
        top_->s_axi_wstrb = payload(data.valid, strobes_, 15);
        top_->s_axi_bready = wires_.lite_b.ready;
    }

    void get_outputs() {
        wires_.busy = top_->busy;
        wires_.interrupt = top_->__SYM__interrupt;  // Verilator's name for a word that C++ has
        wires_.ar = {bool(top_->m_axi_arvalid), wires_.ar.ready,     top_->m_axi_araddr,
                     top_->m_axi_arlen,         top_->m_axi_arsize,  top_->m_axi_arburst,
                     top_->m_axi_arcache,       top_->m_axi_arprot};
        wires_.aw = {bool(top_->m_axi_awvalid), wires_.aw.ready,     top_->m_axi_awaddr,
                     top_->m_axi_awlen,         top_->m_axi_awsize,  top_->m_axi_awburst,
                     top_->m_axi_awcache,       top_->m_axi_awprot};
        wires_.w.valid = top_->m_axi_wvalid;
        wires_.w.last = top_->m_axi_wlast;
        wires_.w.strobes = top_->m_axi_wstrb;
        if (wires_.w.valid) from_port(top_->m_axi_wdata, wires_.w.data);
        wires_.r.ready = top_->m_axi_rready;
        wires_.b.ready = top_->m_axi_bready;
        wires_.lite_ar.ready = top_->s_axi_arready;
        wires_.lite_aw.ready = top_->s_axi_awready;
        wires_.lite_w.ready = top_->s_axi_wready;
        wires_.lite_r.valid = top_->s_axi_rvalid;
        wires_.lite_r.value = top_->s_axi_rdata;
        wires_.lite_r.response = top_->s_axi_rresp;
        wires_.lite_b.valid = top_->s_axi_bvalid;
        wires_.lite_b.response = top_->s_axi_bresp;
    }

    // The offer that a channel carries, if its time has come.
    const Offer* put_on(LiteChannel& channel, const std::deque<Offer>& offers) {
        if (offers.empty() || offers.front().cycle > cycles || wires_.reset) return nullptr;
        channel.valid = true;
        channel.value = offers.front().value;
        return &offers.front();
    }

    void clock_lite() {
        taken_ = {wires_.lite_ar.moves(), wires_.lite_aw.moves(), wires_.lite_w.moves()};
        if (wires_.lite_b.moves()) answered_ = true, answer_ = wires_.lite_b;
        if (taken_.address) addresses_.pop_front();
        if (taken_.data) data_.pop_front();
        for (LiteChannel* request : {&wires_.lite_ar, &wires_.lite_aw, &wires_.lite_w})
            if (request->moves()) request->valid = false;
    }

    VerilatedContext context_;
    std::unique_ptr<Vtop> top_;
#if VM_TRACE
    VerilatedVcdC trace_;
#endif
    Memory& memory_;
    Random noise_;  // on channels that carry nothing
    Wires wires_{};
    unsigned strobes_ = 15;
    bool answered_ = false;
    std::vector<std::function<void()>> advances_;
    LiteChannel answer_{};  // to the last write
    std::deque<Offer> addresses_, data_;  // of writes, that the host has yet to put through
    std::int64_t hold_from_ = 0, hold_until_ = 0;
    struct {
        bool request, address, data;
    } taken_{};  // from the host in the last cycle
    std::int64_t now_ = 0;    // cycle of the program
    std::int64_t rose_at_ = 0, fell_at_ = 0;  // cycles in which the last events were seen
    bool rose_ = false, fell_ = false;
    std::int64_t read_beats_ = 0, write_beats_ = 0;
};

// Carries out one line; gives the answer.
std::string obey(const std::string& line, Bench& bench, Memory& memory) {
    std::istringstream words(line);
    std::string command;
    words >> command;
    const auto number = [&words] {
        std::uint64_t value;
        if (!(words >> value)) throw std::runtime_error("a number is missing");
        return value;
    };
    std::ostringstream answer;
    answer << "ok";
    if (command == "reset") {
        bench.reset(number());
    } else if (command == "read") {
        std::vector<std::uint32_t> offsets(number());
        for (std::uint32_t& each : offsets) each = number();
        for (const LiteChannel& found : bench.read(offsets))
            answer << ' ' << found.response << ' ' << found.value;
    } else if (command == "write") {
        const auto offset = number(), value = number(), strobes = number();
        answer << ' ' << bench.write(offset, value, strobes);
    } else if (command == "step") {
        bench.step(number());
    } else if (command == "advance") {
        std::string name;
        words >> name;
        bench.advance(name, number());
    } else if (command == "address") {
        const auto after = number(), offset = number();
        bench.offer_address(after, offset);
    } else if (command == "data") {
        const auto after = number(), value = number(), strobes = number();
        bench.offer_data(after, value, strobes);
    } else if (command == "hold") {
        const auto after = number(), count = number();
        bench.hold(after, count);
    } else if (command == "watch") {
        const auto count = number(), offset = number(), after = number();
        return bench.watch(count, offset, after);
    } else if (command == "run" || command == "resume") {
        const auto offset = number(), value = number(), limit = number();
        return command == "run" ? bench.run(offset, value, limit)
                                : bench.resume(offset, value, limit);
    } else if (command == "wait") {
        return bench.wait(number());
    } else if (command == "pins") {
        answer << ' ' << bench.busy() << ' ' << bench.interrupt();
    } else if (command == "timing") {
        memory.be_exact();
        Timing& timing = memory.timing;
        for (std::int64_t* each : {&timing.latency, &timing.rate_bytes, &timing.rate_cycles,
                                   &timing.refresh_interval, &timing.refresh, &timing.host})
            *each = number();
    } else if (command == "random") {
        memory.be_random(number());
    } else if (command == "trap") {
        const auto first = number(), end = number(), write = number(), response = number();
        memory.traps.push_back({first, end, write != 0, unsigned(response)});
    } else if (command == "silence") {
        memory.silent_from = number();
        memory.silent_until = number();
    } else if (command == "calm") {
        memory.traps.clear();
        memory.silent_from = memory.silent_until = 0;
    } else if (command == "cycles") {
        answer << ' ' << bench.cycles;
    } else if (command == "violations") {
        answer << ' ' << bench.monitor.violations;
        for (const std::string& each : bench.monitor.shown) answer << '\t' << each;
        bench.monitor.shown.clear();
        bench.monitor.violations = 0;
    } else {
        throw std::runtime_error("unknown command " + command);
    }
    return answer.str();
}

}  // namespace

int main(int count, char** arguments) {
    try {
        if (count < 5) throw std::runtime_error("needs IMAGE BASE BYTES SEED");
        const auto number = [&](int i) { return std::strtoull(arguments[i], nullptr, 10); };
        const Image image(arguments[1], number(3));
        Memory memory(image.data(), number(2), number(3));
        const char* waves = count > 5 && *arguments[5] != '+' ? arguments[5] : nullptr;
        Bench bench(memory, number(4), waves, count, arguments);
        for (std::string line; std::getline(std::cin, line) && line != "quit";)
            std::cout << obey(line, bench, memory) << std::endl;
    } catch (const std::exception& error) {
        std::cout << "error " << error.what() << std::endl;
        return 1;
    }
    return 0;
}
