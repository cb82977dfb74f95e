// A trace of power in bins, and what is known of a window of it. Arithmetic alone: nothing here touches the page.
"use strict";

// Bins in the order in which they came: where each begins and how long it is (s, on the board's clock), mean, least and
// largest (W), and how much of it samples cover (s). A bin that nothing covers says nothing, and is not 0 W.
class Trace {
  constructor(mostBins) { this.most = mostBins; this.clear(); }
  clear() { this.begun = null; this.at = []; this.long = []; this.mean = []; this.low = []; this.high = []; this.covered = []; }
  get length() { return this.at.length; }
  get end() { const last = this.length - 1; return last < 0 ? 0 : this.at[last] + this.long[last]; }
  get start() { return this.length ? this.at[0] : 0; }
  add(told) {
    // A board that began anew counts its time anew: the old trace is another one.
    if (this.length && told.first_s < this.end - 1) this.clear();
    // From here on it was looked at, also where the bins are not held any more.
    if (this.begun === null && told.mean_w.length) this.begun = told.first_s;
    told.mean_w.forEach((mean, index) => {
      this.at.push(told.first_s + index * told.bin_s);
      this.long.push(told.bin_s);
      this.mean.push(mean === null ? 0 : mean);
      this.low.push(told.low_w[index]);
      this.high.push(told.high_w[index]);
      this.covered.push(mean === null ? 0 : told.covered_s ? told.covered_s[index] : told.bin_s);
    });
    const beyond = this.length - this.most;
    if (beyond > 0) for (const key of ["at", "long", "mean", "low", "high", "covered"]) this[key].splice(0, beyond);
  }
  // Index of the first bin whose middle lies at or after a time.
  index(time) {
    let low = 0, high = this.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.at[middle] + this.long[middle] / 2 < time) low = middle + 1; else high = middle;
    }
    return low;
  }
}

// What the bins between two times say: seconds, covered seconds, seconds whose bins are not held any more, joules of what
// was seen, mean, least and largest (W), and the distribution of the bins' means by covered time: pairs of watts and the
// share of time at or below them.
function windowOf(trace, from, to) {
  let seen = 0, joules = 0, least = Infinity, largest = -Infinity, begin = null, end = null;
  const known = [];
  for (let index = trace.index(from); index < trace.length && trace.at[index] + trace.long[index] / 2 < to; index++) {
    if (begin === null) begin = trace.at[index];
    end = trace.at[index] + trace.long[index];
    if (!(trace.covered[index] > 0)) continue;
    seen += trace.covered[index];
    joules += trace.mean[index] * trace.covered[index];
    least = Math.min(least, trace.low[index]);
    largest = Math.max(largest, trace.high[index]);
    known.push([trace.mean[index], trace.covered[index]]);
  }
  known.sort((a, b) => a[0] - b[0]);
  let below = 0;
  const shares = known.map(([watts, seconds]) => [watts, (below += seconds) / (seen || 1)]);
  // Whole bins: from the beginning of the first to the end of the last, and what is missing between them. Bins that were
  // let go since there are too many are missing as well: nobody knows any more what they said.
  const lost = trace.begun === null ? 0 : Math.max(0, Math.min(to, trace.start) - Math.max(from, trace.begun));
  const seconds = (begin === null ? 0 : end - begin) + lost;
  return {
    seconds, seen, lost, joules: known.length ? joules : null, mean: seen > 0 ? joules / seen : null,
    least: known.length ? least : null, largest: known.length ? largest : null, shares,
    // The power that was not exceeded in this share of the covered time.
    level: (share) => { const found = shares.find((one) => one[1] >= share - 1e-9); return found ? found[0] : null; },
  };
}

// The same bins for so many columns of a picture: least, largest and mean of each, null where nothing is covered.
function columnsOf(trace, from, to, count) {
  const columns = Array.from({ length: count }, () => null), each = (to - from) / count;
  for (let index = trace.index(from - trace.long[0]); index < trace.length && trace.at[index] < to; index++) {
    if (!(trace.covered[index] > 0)) continue;
    const first = Math.max(0, Math.floor((trace.at[index] - from) / each + 1e-9));
    const last = Math.min(count - 1, Math.ceil((trace.at[index] + trace.long[index] - from) / each - 1e-9) - 1);
    for (let column = first; column <= last; column++) {
      const here = columns[column] || (columns[column] = { low: Infinity, high: -Infinity, joules: 0, seen: 0 });
      here.low = Math.min(here.low, trace.low[index]);
      here.high = Math.max(here.high, trace.high[index]);
      here.joules += trace.mean[index] * trace.covered[index];
      here.seen += trace.covered[index];
    }
  }
  return columns;
}
