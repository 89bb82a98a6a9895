// A core's program from start to halt: `Machine` of `sim/timing/core.py`, compiled.
//
// That class is the reference; what is written there about fetch, dispatch, units and memory is not
// repeated here. Events need no heap: the memory serves reads in their order, and of every other
// kind only one is under way at a time.
//
// Where nothing refreshes, periods are skipped. A state is what the machine holds, with indices
// relative to the next instruction and times relative to the cycle. If an earlier state comes back,
// and the instructions ahead are those of the period before, then the machine does the same again:
// all that it holds and counts is moved on by as many periods as the instructions allow. Which
// earlier state to compare with is chosen as in Brent's search for cycles (1980): the one kept is
// replaced whenever twice as many states have passed as at the time before.

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

namespace {

constexpr int UNITS = 3;
constexpr int MOST_QUEUED = 16;
constexpr int64_t NEVER = std::numeric_limits<int64_t>::max();
enum Opcode : uint8_t { LOAD = 1, MATMUL = 2, STORE = 3, SYNC = 4, HALT = 5, FILL = 6 };
enum Unit { LOADS = 0, COMPUTES = 1, STORES = 2, NOBODY = 3 };
constexpr int UNIT_OF[] = {NOBODY, LOADS, COMPUTES, STORES, LOADS, NOBODY, COMPUTES};

// An instruction; `ROW` of `sim/timing/walk.py`.
struct Row {
  int64_t cycles;       // of a matmul or a fill
  int32_t words;        // of a load or a store
  int16_t first_burst;  // words of its first burst
  uint8_t opcode;
  uint8_t tokens;  // the units waited for, and from bit 3 on those signalled

  int takes() const { return tokens & 7; }
  int gives() const { return tokens >> UNITS; }
  bool operator==(const Row& other) const { return !std::memcmp(this, &other, sizeof(Row)); }
};
static_assert(sizeof(Row) == 16);

// `Setup` of `sim/timing/walk.py`, field by field.
struct Setup {
  int64_t instructions, program_words, outstanding_reads, fetch_beats, fetch_words;
  int64_t queue_instructions, token_limit, word_instructions, instruction_words, burst_beats;
  int64_t store_latency_cycles, store_word_cycles, latency_cycles, host_cycles;
  int64_t refresh_interval_cycles, refresh_cycles, cycle_units, word_units, skips;
};

// `Outcome` of `sim/timing/walk.py`, field by field.
enum Code : int64_t { DONE = 0, DEADLOCK = 1, TOO_MANY_TOKENS = 2, TOO_LATE = 3 };
struct Outcome {
  int64_t code, cycles, read_beats, write_beats, dispatched, syncs, visits;
  int64_t index, sink;                   // of the instruction that gave a token too many
  int64_t head[UNITS], missing[UNITS];   // of a deadlock: who waits first in every queue, for whom
  int64_t held;                          // whether the dispatcher has the next instruction
};

struct SyncRow {
  int64_t index, raised_cycle, resumed_cycle;
};

// A word of the program that arrives, or the last word of a burst of a load.
struct Read {
  int64_t cycle, order, job;  // job -1 for none that it completes
  int32_t ends_burst, is_program;
};

// What ends in a cycle known beforehand.
struct Ending {
  int64_t job = -1, cycle = NEVER, order = 0;
};

// Everything but the reads under way and what the memory was busy with. Indices and cycles are
// absolute.
template <class Time>
struct State {
  int64_t cycle = 0, next = 0;
  Time free = 0;  // in units of service
  int64_t words_left = 0, reserved = 0, arrived = 0, in_flight = 0, parts = 0, held = 0;
  int64_t queue[UNITS][MOST_QUEUED] = {};
  int32_t queued[UNITS] = {}, active[UNITS] = {};
  int32_t tokens[UNITS][UNITS] = {};  // [source][sink]
  int64_t load = -1, load_words = 0, load_burst = 0;                    // words left, and next burst
  int64_t store = -1, store_words = 0, store_burst = 0, write = NEVER;  // cycle of the next burst
  Ending compute, sync, stored;
  int64_t order = 0, read_beats = 0, write_beats = 0;
};

template <class Time>
class Walker {
 public:
  Walker(const Setup& setup, const Row* rows, SyncRow* syncs)
      : p(setup), rows(rows), syncs(syncs), rate(setup.cycle_units), word(setup.word_units) {
    s.words_left = p.program_words;
  }

  void run(Outcome& out) {
    for (;;) {
      int64_t at = next_event();
      while (at <= s.cycle) {
        if (!take_event(out)) return;
        at = next_event();
      }
      if (halts()) break;
      out.visits++;
      if (visit()) {
        s.cycle++;
        if (started || resumed) look_for_period();
      } else if (at < NEVER) {
        s.cycle = at;
      } else {
        return deadlock(out);
      }
      if (sizeof(Time) == sizeof(int64_t) && (s.cycle > MOST_CYCLES || s.free > MOST_UNITS)) {
        out.code = TOO_LATE;
        return;
      }
    }
    out.code = DONE;
    out.cycles = s.cycle + 1;
    out.read_beats = s.read_beats;
    out.write_beats = s.write_beats;
    out.dispatched = s.next + 1;
    out.syncs = sync_count;
  }

  // Units of service in which words were moved, of every stage; low half and high half.
  void busy(uint64_t (*units)[2]) const {
    size_t place = 0;
    std::pair<Time, Time> span(0, 0);
    if (!spans.empty()) span = spans[0];
    for (int64_t stage = 0; stage <= sync_count; stage++) {
      Time first = stage ? Time(syncs[stage - 1].resumed_cycle + 1) * rate : 0;
      Time end = Time(stage < sync_count ? syncs[stage].raised_cycle : s.cycle + 1) * rate;
      Time moved = 0;
      while (place < spans.size() && span.first < end) {
        moved += std::max(Time(0), std::min(span.second, end) - std::max(span.first, first));
        if (span.second > end) {
          span.first = end;
        } else if (++place < spans.size()) {
          span = spans[place];
        }
      }
      units[stage][0] = uint64_t(moved);
      units[stage][1] = uint64_t((unsigned __int128)(moved) >> 64);
    }
  }

 private:
  // Beyond these, sums in 64 bits could overflow: what is added in one cycle is far less.
  static constexpr int64_t MOST_CYCLES = int64_t(1) << 40, MOST_UNITS = int64_t(1) << 61;

  const Setup& p;
  const Row* rows;
  SyncRow* syncs;
  const Time rate, word;
  State<Time> s;
  int64_t sync_count = 0;
  std::vector<std::pair<Time, Time>> spans;  // in which words were moved
  std::array<Read, 2048> reads;              // a ring; 64 bursts of 16 words at most
  uint32_t reads_head = 0, reads_end = 0;
  bool started = false, resumed = false;  // a matmul or fill, and after a sync, in this visit

  Read& read(uint32_t place) { return reads[place % reads.size()]; }

  // Events.

  int64_t next_event() {
    int64_t at = reads_head == reads_end ? NEVER : read(reads_head).cycle;
    at = std::min(at, s.write);
    at = std::min(at, s.compute.cycle);
    at = std::min(at, s.sync.cycle);
    return std::min(at, s.stored.cycle);
  }

  // The event of this cycle that was scheduled first; whether the program can go on.
  bool take_event(Outcome& out) {
    if (s.write <= s.cycle) {  // which meets no other event: only it uses the memory
      write();
      return true;
    }
    Ending* ending = nullptr;
    int64_t order = NEVER;
    for (Ending* each : {&s.compute, &s.sync, &s.stored})
      if (each->cycle <= s.cycle && each->order < order) ending = each, order = each->order;
    if (reads_head != reads_end && read(reads_head).cycle <= s.cycle &&
        read(reads_head).order < order) {
      const Read seen = read(reads_head++);
      s.arrived += seen.is_program;
      s.in_flight -= seen.ends_burst;
      return seen.job < 0 || signal(seen.job, out);
    }
    const int64_t job = ending->job;
    resumed |= ending == &s.sync;
    *ending = Ending();
    s.active[UNIT_OF[rows[job].opcode]] = 0;
    return signal(job, out);
  }

  bool signal(int64_t job, Outcome& out) {
    const int unit = UNIT_OF[rows[job].opcode], gives = rows[job].gives();
    for (int sink = 0; sink < UNITS; sink++) {
      if ((gives >> sink & 1) && ++s.tokens[unit][sink] > p.token_limit) {
        out.code = TOO_MANY_TOKENS;
        out.index = job;
        out.sink = sink;
        return false;
      }
    }
    return true;
  }

  // One cycle.

  bool halts() const {
    if (!s.held || rows[s.next].opcode != HALT || s.in_flight) return false;
    for (int unit = 0; unit < UNITS; unit++)
      if (s.queued[unit] || s.active[unit]) return false;
    return true;
  }

  int missing(int unit) const {
    int units = 0;
    const int takes = rows[s.queue[unit][0]].takes();
    for (int source = 0; source < UNITS; source++)
      if ((takes >> source & 1) && !s.tokens[source][unit]) units |= 1 << source;
    return units;
  }

  bool visit() {
    started = false;
    int leaving = s.held ? UNIT_OF[rows[s.next].opcode] : NOBODY;
    if (leaving != NOBODY && s.queued[leaving] >= p.queue_instructions) leaving = NOBODY;
    const bool leaves = leaving != NOBODY;
    const bool refills = s.arrived && (!s.held || (leaves && s.held == 1));
    int64_t fetch = 0;
    bool loads = false;
    if (s.in_flight < p.outstanding_reads) {
      fetch = std::min(s.words_left, p.fetch_beats);
      if (s.reserved + fetch > p.fetch_words) fetch = 0;
      loads = !fetch && s.load >= 0;
    }
    bool starts[UNITS], any = false;
    for (int unit = 0; unit < UNITS; unit++) {
      starts[unit] = s.queued[unit] && !s.active[unit] && !missing(unit);
      any |= starts[unit];
    }

    if (leaves) {
      s.queue[leaving][s.queued[leaving]++] = s.next++;
      s.held--;
    }
    if (refills) {
      s.arrived--;
      s.reserved--;
      if (++s.parts == p.instruction_words) s.parts = 0, s.held = p.word_instructions;
    }
    if (fetch) read_program(fetch);
    if (loads) read_data();
    for (int unit = 0; unit < UNITS; unit++)
      if (starts[unit]) start(unit);
    return leaves || refills || fetch || loads || any;
  }

  // The memory.

  void occupy(Time start, Time end) {
    if (!spans.empty() && spans.back().second == start) {
      start = spans.back().first;
      spans.pop_back();
    }
    if (start < end) spans.emplace_back(start, end);
  }

  int64_t up(Time units) const { return int64_t((units + rate - 1) / rate); }

  int64_t serve(int64_t cycle, int64_t beats) {
    Time start = std::max(Time(cycle) * rate, s.free);
    const int64_t interval = p.refresh_interval_cycles;
    while (interval) {
      const int64_t at = up(start), refresh = at - at % interval;
      if (at < refresh + p.refresh_cycles) start = Time(refresh + p.refresh_cycles) * rate;
      const Time room = (Time(refresh + interval - 1) * rate - start) / word + 1;
      if (room >= beats) break;
      occupy(start, start + room * word);
      start += room * word;
      beats -= int64_t(room);
    }
    const Time last = start + Time(beats - 1) * word;
    s.free = last + word;
    occupy(start, s.free);
    return up(last);
  }

  void push(int64_t words, int64_t job, bool ends_burst, bool is_program) {
    s.read_beats += words;
    const int64_t seen = serve(s.cycle + 1 + p.latency_cycles, words) + 1;
    read(reads_end++) = Read{seen, ++s.order, job, ends_burst, is_program};
  }

  void read_program(int64_t words) {
    s.words_left -= words;
    s.reserved += words;
    s.in_flight++;
    for (int64_t left = words; left--;) push(1, -1, left == 0, true);
  }

  void read_data() {
    const int64_t words = s.load_burst, job = s.load;
    s.load_words -= words;
    s.load_burst = std::min(s.load_words, p.burst_beats);
    if (!s.load_words) s.load = -1, s.active[LOADS] = 0;
    s.in_flight++;
    push(words, s.load_words ? -1 : job, true, false);
  }

  void write() {
    const int64_t words = s.store_burst, accepted = s.write;
    s.write_beats += words;
    const int64_t last = serve(accepted + 1, words);
    s.store_words -= words;
    s.store_burst = std::min(s.store_words, p.burst_beats);
    if (s.store_words) {
      s.write = accepted + s.store_burst * p.store_word_cycles;
    } else {
      s.write = NEVER;
      s.stored = Ending{s.store, last + p.latency_cycles + 1, ++s.order};
      s.store = -1;
    }
  }

  // Units.

  void start(int unit) {
    const int64_t job = s.queue[unit][0];
    const Row& row = rows[job];
    s.queued[unit]--;
    std::copy(s.queue[unit] + 1, s.queue[unit] + 1 + s.queued[unit], s.queue[unit]);
    for (int source = 0; source < UNITS; source++) s.tokens[source][unit] -= row.takes() >> source & 1;
    s.active[unit] = 1;
    if (row.opcode == LOAD) {
      s.load = job, s.load_words = row.words, s.load_burst = row.first_burst;
    } else if (row.opcode == SYNC) {
      syncs[sync_count++] = SyncRow{job, s.cycle + 1, s.cycle + 1 + p.host_cycles};
      s.sync = Ending{job, s.cycle + 2 + p.host_cycles, ++s.order};
    } else if (row.opcode == STORE) {
      s.store = job, s.store_words = row.words, s.store_burst = row.first_burst;
      s.write = s.cycle + p.store_latency_cycles + s.store_burst * p.store_word_cycles;
    } else {
      started = true;
      s.compute = Ending{job, s.cycle + row.cycles + 1, ++s.order};
    }
  }

  void deadlock(Outcome& out) const {
    out.code = DEADLOCK;
    for (int unit = 0; unit < UNITS; unit++) {
      out.head[unit] = s.queued[unit] ? s.queue[unit][0] : -1;
      out.missing[unit] = s.queued[unit] ? missing(unit) : 0;
    }
    out.held = s.held > 0;
    out.index = s.next;
  }

  // Periods.

  // A state that was, with what was counted until then.
  struct Kept {
    State<Time> state;
    std::vector<Read> reads;
    int64_t syncs;
    size_t spans;
    Time busy_until;
  };

  // Looks for one kind of period, at some of the cycles.
  struct Search {
    Kept kept;
    int64_t since = 0, limit = 0;  // states since the one kept, and how many it is kept for
    int64_t most;                  // longer ones are not looked for: the program may have changed
  };

  Search of_computes{{}, 0, 0, 512}, of_syncs{{}, 0, 0, 64};

  void look_for_period() {
    if (p.skips) {
      if (started) look_for_period(of_computes);
      if (resumed) look_for_period(of_syncs);
    }
    resumed = false;
  }

  void look_for_period(Search& search) {
    if (search.limit && is_like(search.kept) && skip(search.kept)) {
      search.limit = 0;  // a new search; states kept for the other kind stay what they are
    } else if (++search.since >= search.limit) {
      search.limit = search.limit < search.most ? std::max<int64_t>(1, 2 * search.limit) : 1;
      search.since = 0;
      keep(search.kept);
    }
  }

  void keep(Kept& kept) {
    kept.state = s;
    kept.reads.clear();
    for (uint32_t place = reads_head; place != reads_end; place++) kept.reads.push_back(read(place));
    kept.syncs = sync_count;
    kept.spans = spans.size();
    kept.busy_until = spans.empty() ? Time(0) : spans.back().second;
  }

  static int64_t since(int64_t index, int64_t base) { return index < 0 ? NEVER : index - base; }
  static int64_t until(int64_t cycle, int64_t base) { return cycle == NEVER ? NEVER : cycle - base; }

  static bool is_like(const Ending& a, const State<Time>& then, const Ending& b,
                      const State<Time>& now) {
    return until(a.cycle, then.cycle) == until(b.cycle, now.cycle) &&
           (a.cycle == NEVER || (since(a.job, then.next) == since(b.job, now.next) &&
                                 a.order - then.order == b.order - now.order));
  }

  // Whether the machine holds now what it held then.
  bool is_like(const Kept& kept) {
    const State<Time>& then = kept.state;
    const Time waits = std::max(Time(0), Time(then.free - Time(then.cycle) * rate));
    if (waits != std::max(Time(0), Time(s.free - Time(s.cycle) * rate))) return false;
    if (std::memcmp(then.tokens, s.tokens, sizeof s.tokens) ||
        std::memcmp(then.queued, s.queued, sizeof s.queued) ||
        std::memcmp(then.active, s.active, sizeof s.active))
      return false;
    if (then.reserved != s.reserved || then.arrived != s.arrived ||
        then.in_flight != s.in_flight || then.parts != s.parts || then.held != s.held)
      return false;
    if (since(then.load, then.next) != since(s.load, s.next) || then.load_words != s.load_words ||
        then.load_burst != s.load_burst || then.store_words != s.store_words ||
        since(then.store, then.next) != since(s.store, s.next) ||
        then.store_burst != s.store_burst ||
        until(then.write, then.cycle) != until(s.write, s.cycle))
      return false;
    if (!is_like(then.compute, then, s.compute, s) || !is_like(then.sync, then, s.sync, s) ||
        !is_like(then.stored, then, s.stored, s))
      return false;
    for (int unit = 0; unit < UNITS; unit++)
      for (int place = 0; place < s.queued[unit]; place++)
        if (then.queue[unit][place] - then.next != s.queue[unit][place] - s.next) return false;
    if (kept.reads.size() != reads_end - reads_head) return false;
    uint32_t place = reads_head;
    for (const Read& a : kept.reads) {
      const Read& b = read(place++);
      if (a.cycle - then.cycle != b.cycle - s.cycle || a.order - then.order != b.order - s.order ||
          since(a.job, then.next) != since(b.job, s.next) || a.ends_burst != b.ends_burst ||
          a.is_program != b.is_program)
        return false;
    }
    return true;
  }

  // Moves on by as many periods as the instructions allow; whether by any.
  bool skip(const Kept& kept) {
    const State<Time>& then = kept.state;
    const int64_t period = s.next - then.next, cycles = s.cycle - then.cycle;
    const int64_t words = then.words_left - s.words_left;
    if (period <= 0) return false;
    int64_t place = then.next;  // the first instruction that the state then had to do with
    for (int unit = 0; unit < UNITS; unit++)
      if (then.queued[unit]) place = std::min(place, then.queue[unit][0]);
    for (int64_t job : {then.load, then.store, then.compute.job, then.sync.job, then.stored.job})
      if (job >= 0) place = std::min(place, job);
    for (const Read& each : kept.reads)
      if (each.job >= 0) place = std::min(place, each.job);
    while (place + period < p.instructions && rows[place] == rows[place + period]) place++;
    // The state now has to do with instructions up to the next one, that included.
    if (place <= s.next) return false;
    int64_t times = (place - 1 - s.next) / period + 1;
    // The program's last words are asked for in a shorter burst, and after them none.
    if (words) times = std::min(times, (s.words_left - p.fetch_beats) / words);
    if (sizeof(Time) == sizeof(int64_t)) times = std::min(times, (MOST_CYCLES - s.cycle) / cycles);
    if (times <= 0) return false;

    const size_t span_end = spans.size();
    std::vector<std::pair<Time, Time>> moved(spans.begin() + kept.spans, spans.end());
    if (kept.spans && kept.spans <= span_end && spans[kept.spans - 1].second > kept.busy_until)
      moved.insert(moved.begin(), {kept.busy_until, spans[kept.spans - 1].second});
    const int64_t sync_end = sync_count;
    for (int64_t time = 1; time <= times; time++) {
      const Time units = Time(time * cycles) * rate;
      for (const auto& [start, end] : moved) occupy(start + units, end + units);
      for (int64_t i = kept.syncs; i < sync_end; i++) {
        const SyncRow& each = syncs[i];
        syncs[sync_count++] = SyncRow{each.index + time * period, each.raised_cycle + time * cycles,
                                      each.resumed_cycle + time * cycles};
      }
    }

    const int64_t far = times * period, later = times * cycles;
    s.read_beats += times * (s.read_beats - then.read_beats);
    s.write_beats += times * (s.write_beats - then.write_beats);
    s.words_left -= times * words;
    s.cycle += later;
    s.next += far;
    s.free += Time(later) * rate;
    for (int unit = 0; unit < UNITS; unit++)
      for (int i = 0; i < s.queued[unit]; i++) s.queue[unit][i] += far;
    if (s.load >= 0) s.load += far;
    if (s.store >= 0) s.store += far;
    if (s.write < NEVER) s.write += later;
    for (Ending* each : {&s.compute, &s.sync, &s.stored})
      if (each->cycle < NEVER) each->job += far, each->cycle += later;
    for (uint32_t i = reads_head; i != reads_end; i++) {
      read(i).cycle += later;
      if (read(i).job >= 0) read(i).job += far;
    }
    return true;
  }
};

template <class Time>
void walk_in(const Setup& setup, const Row* rows, SyncRow* syncs, uint64_t (*busy)[2],
             Outcome& out) {
  out = Outcome();
  Walker<Time> walker(setup, rows, syncs);
  walker.run(out);
  if (out.code == DONE) walker.busy(busy);
}

}  // namespace

extern "C" void walk(const Setup* setup, const Row* rows, SyncRow* syncs, uint64_t (*busy)[2],
                     Outcome* out) {
  const bool narrow = setup->cycle_units >> 20 == 0 && setup->word_units >> 32 == 0;
  out->code = TOO_LATE;
  if (narrow) walk_in<int64_t>(*setup, rows, syncs, busy, *out);
  if (out->code == TOO_LATE) walk_in<__int128>(*setup, rows, syncs, busy, *out);
}
