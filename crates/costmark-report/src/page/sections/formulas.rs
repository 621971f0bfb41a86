//! The formulas behind the figures, as HTML of our own.

pub(super) const COST: &str = "<dl class=\"formulas\">\
<dt>blended</dt><dd>usd_per_mtok = usd_per_hour ÷ (total tokens/s × 3600 ÷ 10⁶) ÷ utilization</dd>\
<dt>input and output</dt><dd>The cost of the window is split by step time. Steps that do both are \
split by what each part would take alone under the measured roofline; time without a step is spread \
over both. usd_per_mtok_output = cost × decode share ÷ output tokens × 10⁶; usd_per_mtok_input = cost \
× prefill share ÷ (prompt tokens − cached tokens) × 10⁶. Together they are the whole cost.</dd>\
<dt>interval</dt><dd>Median over repeats ± t(0.975, n − 1) · s ÷ √n of the tokens per second, turned \
into money by its ends.</dd></dl>";

pub(super) const MARGIN: &str = "<dl class=\"formulas\">\
<dt>revenue</dt><dd>(input tokens − cached tokens) × list price of input + cached tokens × list price \
of cached input + output tokens × list price of output, over the tokens measured</dd>\
<dt>cost of goods sold</dt><dd>usd_per_hour ÷ 3600 × tokens measured ÷ median tokens/s ÷ utilization</dd>\
<dt>gross margin</dt><dd>1 − cost of goods sold ÷ revenue</dd>\
<dt>interval</dt><dd>The cost of a token is inversely proportional to tokens per second, so the 95 % \
interval of throughput gives that of the margin by its ends.</dd>\
<dt>breaks even</dt><dd>at the utilization, or the hourly price, at which the margin is 0</dd></dl>";

pub(super) const LATENCY: &str = "<dl class=\"formulas\">\
<dt>TTFT</dt><dd>first token − sent</dd>\
<dt>ITL</dt><dd>gap between two token events of a request, all requests together</dd>\
<dt>TPOT</dt><dd>(last token − first token) ÷ (tokens − 1), per request</dd>\
<dt>E2E</dt><dd>last token − sent</dd>\
<dt>tok/s per user</dt><dd>1000 ÷ median TPOT in ms</dd>\
<dt>percentiles</dt><dd>from HDR histograms with three significant digits, all repeats together. A p90 \
is told from 64 samples on, a p99 from 662.</dd></dl>";

pub(super) const ROOFLINE: &str = "<dl class=\"formulas\">\
<dt>MBU</dt><dd>bytes that had to move ÷ (time × measured peak read bandwidth). Bytes of a step: weights \
once, keys and values read and written, logits. Modelled, not counted.</dd>\
<dt>MFU</dt><dd>FLOPs that had to be done ÷ (time × measured peak FLOP/s)</dd>\
<dt>roofline</dt><dd>least of peak FLOP/s and intensity × peak bandwidth; intensity = FLOPs ÷ bytes of a \
step</dd></dl>";
