'use strict';
// Everything that engines say is shown by textContent alone.

const kPeriodMs = 1000, kTimeoutMs = 5000, kLongestWaitMs = 10000;
const kHistory = 120;  // seconds that the curves show
const kWindow = 4;     // seconds over which a rate of just now is formed
const kFewEngines = 4; // whose stages are open from the start
const kHues = [14, 205, 150, 275, 338, 182, 92, 236];
const kKeyName = 'polystrate.api_key';

const byId = (id) => document.getElementById(id);
const part = (root, name) => root.querySelector(`[data-is="${name}"]`);
const number = (x) => typeof x === 'number' && Number.isFinite(x) ? x : null;
const list = (x) => Array.isArray(x) ? x : [];
const whole = (x) => number(x) === null ? '–' : Math.round(x).toLocaleString('en');
const percent = (share) => share === null ? '–' : `${Math.round(100 * share)} %`;
const plural = (n, word) => `${whole(n)} ${word}${n === 1 ? '' : 's'}`;
const rateText = (x) => x === null ? '–' : x.toLocaleString('en', {maximumFractionDigits: x < 10 ? 1 : 0});
const sum = (items, key) => items.reduce((total, item) => total + (number(item[key]) || 0), 0);

function setText(root, name, text) {
  const node = part(root, name);
  if (node.textContent !== text) node.textContent = text;
}

function fromTemplate(id) { return byId(id).content.firstElementChild.cloneNode(true); }

function bytesText(bytes) {
  const units = ['B', 'KiB', 'MiB', 'GiB'];
  let unit = 0;
  for (; bytes >= 1024 && unit < units.length - 1; ++unit) bytes /= 1024;
  return `${bytes.toLocaleString('en', {maximumFractionDigits: 1})} ${units[unit]}`;
}

function timeText(seconds) {
  const units = [['day', 86400], ['h', 3600], ['min', 60], ['s', 1]];
  const [name, size] = units.find(([, size]) => seconds >= size) || units[3];
  return name === 'day' ? plural(Math.floor(seconds / size), 'day') : `${Math.floor(seconds / size)} ${name}`;
}

// A count that only grows, read now and then; one that shrinks is another process's.
class Counter {
  samples = [];  // [time, count], the oldest first
  add(time, count) {
    if (number(time) === null || number(count) === null) return;
    const last = this.samples.at(-1);
    if (last && time <= last[0] && time > last[0] - kHistory) return;  // what is known, or older
    if (last && (count < last[1] || time < last[0])) this.samples = [];
    this.samples.push([time, count]);
    while (this.samples[0][0] < time - kHistory) this.samples.shift();
  }
  // A second's, of the last `window` seconds or two samples; null before there are two.
  rate(window) {
    if (this.samples.length < 2) return null;
    const last = this.samples.at(-1);
    const inside = this.samples.find(([time]) => time >= last[0] - window);
    const first = inside === last ? this.samples.at(-2) : inside;  // a hidden page reads seldom
    return (last[1] - first[1]) / (last[0] - first[0]);
  }
  // [seconds before the last, a second's]
  rates() {
    const end = this.samples.length ? this.samples.at(-1)[0] : 0;
    return this.samples.slice(1).map(([time, count], i) =>
        [end - time, (count - this.samples[i][1]) / (time - this.samples[i][0])]);
  }
}

// Returns the largest rate that is shown.
function drawCurve(svg, counter) {
  const rates = counter.rates();
  const peak = rates.reduce((most, [, rate]) => Math.max(most, rate), 0);
  const points = rates.map(([age, rate]) =>
      `${(kHistory - age).toFixed(1)} ${(29 - 28 * rate / (peak || 1)).toFixed(2)}`);
  while (svg.childElementCount < 2) svg.append(document.createElementNS(svg.namespaceURI, 'path'));
  const [area, line] = svg.children;
  area.setAttribute('class', 'area');
  line.setAttribute('d', points.length ? `M${points.join('L')}` : '');
  area.setAttribute('d', points.length ?
      `M${points[0].split(' ')[0]} 30L${points.join('L')}L${kHistory} 30Z` : '');
  svg.setAttribute('aria-label', `Tokens per second of the last two minutes, at most ${rateText(peak)}`);
  return peak;
}

function drawBar(bar, share, label) {
  bar.setAttribute('role', 'meter');
  bar.setAttribute('aria-label', label);
  bar.setAttribute('aria-valuemin', '0');
  bar.setAttribute('aria-valuemax', '100');
  bar.setAttribute('aria-valuenow', String(Math.round(100 * (share || 0))));
  bar.firstElementChild.style.width = `${(100 * Math.min(1, share || 0)).toFixed(1)}%`;
}

// The layers of a stage in order, from its KV groups: {layer, owner, shared}.
function layersOf(stage) {
  return list(stage.kv_groups).flatMap((group) => {
    const readers = list(group.readers);
    const inside = number(stage.first_layer) === null || group.owner >= stage.first_layer;
    return (inside ? [group.owner] : []).concat(readers)
        .map((layer) => ({layer, owner: group.owner, shared: readers.length > 0}));
  }).sort((a, b) => a.layer - b.layer);
}

// Hues go to the caches that are shared, in the order of their owners.
function drawStrip(strip, layers, firstGroup) {
  const owners = [...new Set(layers.filter((x) => x.shared).map((x) => x.owner))].sort((a, b) => a - b);
  strip.replaceChildren(...layers.map(({layer, owner, shared}, i) => {
    const cell = document.createElement('li');
    const owns = layer === owner;
    cell.className = 'cell';
    if (owns) cell.classList.add(shared ? 'owner' : 'alone');
    if (i === 0 || layers[i - 1].owner !== owner) cell.classList.add('first');
    if (i === layers.length - 1 || layers[i + 1].owner !== owner) cell.classList.add('last');
    if (shared) cell.style.setProperty('--h', kHues[(firstGroup + owners.indexOf(owner)) % kHues.length]);
    const mark = document.createElement('small');
    mark.textContent = owns ? 'KV' : `←${owner}`;
    cell.append(String(layer), mark);
    cell.title = owns ? `Layer ${layer} has a KV cache${shared ? '' : ' of its own'}` :
                        `Layer ${layer} reads the KV cache of layer ${owner}`;
    return cell;
  }));
  return firstGroup + owners.length;
}

class RankView {
  root = fromTemplate('rank_template');
  busy = new Counter();
  update(rank, now, serving) {
    this.busy.add(now, rank.busy_seconds);
    const rate = this.busy.rate(2 * kWindow);
    const share = serving && rate !== null ? Math.min(1, rate) : null;
    setText(this.root, 'place', `rank ${rank.rank} · ${rank.host}:${rank.pid}`);
    setText(this.root, 'busy', `${percent(share)} busy`);
    setText(this.root, 'bubble', `${percent(number(rank.bubble_share))} bubble`);
    setText(this.root, 'doing', String(rank.doing));
    drawBar(part(this.root, 'bar'), share, `rank ${rank.rank} busy`);
  }
}

class EngineView {
  root = fromTemplate('engine_template');
  tokens = new Counter();
  ranks = new Map();
  layout = '';
  constructor(open) { this.root.querySelector('details').open = open; }

  update(engine, now) {
    const serving = engine.serving === true;
    this.tokens.add(engine.time, engine.tokens && engine.tokens.generation);
    this.root.dataset.serving = serving ? 'yes' : 'no';
    setText(this.root, 'target', String(engine.target));
    setText(this.root, 'what', [engine.model, engine.tp > 0 && `tp ${engine.tp} × pp ${engine.pp}`,
      engine.version && `version ${engine.version}`].filter(Boolean).join(' · '));
    const lost = engine.times_lost > 0 ? ` · lost ${plural(engine.times_lost, 'time')}` : '';
    setText(this.root, 'state', (serving ? 'serving' : `not serving${engine.problem ? `: ${engine.problem}` : ''}`) + lost);
    this.updateFigures(engine, serving);
    this.updateStages(list(engine.stages), now, serving);
  }

  updateFigures(engine, serving) {
    drawCurve(part(this.root, 'spark'), this.tokens);
    setText(this.root, 'rate', serving ? rateText(this.tokens.rate(kWindow)) : '–');
    setText(this.root, 'streams', whole(engine.streams));
    setText(this.root, 'running', whole(engine.running));
    setText(this.root, 'queued', whole(engine.queued));
    const {prompt, cached_prompt: cached} = engine.tokens || {};
    setText(this.root, 'hits', percent(prompt > 0 && number(cached) !== null ? cached / prompt : null));
    setText(this.root, 'blocks', `${whole(engine.used_blocks)} of ${whole(engine.total_blocks)}`);
    drawBar(part(this.root, 'bar'), engine.used_blocks / (engine.total_blocks || 1), `KV blocks in use of ${engine.target}`);
  }

  updateStages(stages, now, serving) {
    const layout = JSON.stringify(stages.map((s) => [s.stage, s.first_layer, s.end_layer, s.kv_bytes_per_token,
      s.kv_groups, list(s.ranks).map((r) => r.rank)]));
    if (layout !== this.layout) this.buildStages(stages);
    this.layout = layout;
    for (const stage of stages) {
      for (const rank of list(stage.ranks)) this.ranks.get(`${stage.stage}/${rank.rank}`).update(rank, now, serving);
    }
  }

  buildStages(stages) {
    this.ranks.clear();
    let group = 0;
    let layers = 0, caches = 0;
    part(this.root, 'stages').replaceChildren(...stages.map((stage) => {
      const item = fromTemplate('stage_template');
      const cells = layersOf(stage);
      const groups = list(stage.kv_groups).length;
      layers += cells.length;
      caches += groups;
      item.style.flexGrow = String(Math.max(1, cells.length));
      setText(item, 'name', `Stage ${stage.stage}` +
          (cells.length ? ` · layers ${stage.first_layer}–${stage.end_layer - 1}` : ''));
      if (cells.length) {
        setText(item, 'facts', `${plural(groups, 'KV group')}, ${bytesText(stage.kv_bytes_per_token)} a token on each rank`);
      }
      group = drawStrip(part(item, 'strip'), cells, group);
      part(item, 'ranks').replaceChildren(...list(stage.ranks).map((rank) => {
        const view = new RankView();
        this.ranks.set(`${stage.stage}/${rank.rank}`, view);
        return view.root;
      }));
      return item;
    }));
    this.root.querySelector('details').hidden = stages.length === 0;
    setText(this.root, 'summary', [plural(stages.length, 'stage'), layers && plural(layers, 'layer'),
      layers && plural(caches, 'KV cache') +
          (caches < layers ? `, ${(layers / caches).toLocaleString('en', {maximumFractionDigits: 1})} times fewer than layers` : '')]
        .filter(Boolean).join(' · '));
  }
}

const engines = new Map();  // by target
const delivered = new Counter();

function showTotal(coordinator, list) {
  const total = byId('total');
  const up = list.filter((engine) => engine.serving === true);
  delivered.add(coordinator.time, coordinator.tokens);
  const rate = delivered.rate(kWindow);
  setText(total, 'rate', rateText(rate));
  setText(total, 'peak', `at most ${rateText(drawCurve(part(total, 'spark'), delivered))} in two minutes`);
  setText(total, 'streams', whole(coordinator.streams));
  setText(total, 'waiting', coordinator.waiting > 0 ? `${whole(coordinator.waiting)} wait for an engine` :
                                                      `of ${whole(coordinator.requests)} so far`);
  setText(total, 'running', whole(sum(up, 'running')));
  setText(total, 'queued', `${whole(sum(up, 'queued'))} queued`);
  const used = sum(up, 'used_blocks'), blocks = sum(up, 'total_blocks');
  setText(total, 'share', percent(blocks > 0 ? used / blocks : null));
  setText(total, 'blocks', `${whole(used)} of ${whole(blocks)}`);
  drawBar(part(total, 'bar'), used / (blocks || 1), 'KV blocks in use of all engines');
  setText(total, 'carried', whole(coordinator.carried));
  setText(total, 'failed', `${whole(coordinator.failed)} failed` +
      (coordinator.quarantined > 0 ? `, ${whole(coordinator.quarantined)} in quarantine` : ''));
  setText(total, 'serving', `${up.length} of ${list.length}`);
  setText(total, 'lost', `lost ${plural(sum(list, 'times_lost'), 'time')}`);
  byId('about').textContent = `coordinator ${coordinator.version} · up ${timeText(coordinator.uptime_seconds)}`;
  document.title = `${up.length}/${list.length} serving · ${rateText(rate)} tokens/s · Polystrate`;
}

function showNotice(list) {
  const notice = byId('notice');
  const down = list.filter((engine) => engine.serving !== true);
  const text = list.length === 0 ? 'No engine is known to this coordinator yet.' :
      `${down.length} of ${plural(list.length, 'engine')} not serving: ` +
          down.map((engine) => engine.target).join(', ');
  notice.hidden = list.length > 0 && down.length === 0;
  if (!notice.hidden && notice.textContent !== text) notice.textContent = text;
}

function showEngines(list, now) {
  const box = byId('engines');
  for (const [target, view] of engines) {
    if (list.some((engine) => engine.target === target)) continue;
    view.root.remove();
    engines.delete(target);
  }
  list.forEach((engine, i) => {
    if (!engines.has(engine.target)) engines.set(engine.target, new EngineView(list.length <= kFewEngines));
    const view = engines.get(engine.target);
    view.update(engine, now);
    if (box.children[i] !== view.root) box.insertBefore(view.root, box.children[i] || null);
  });
}

function show(status) {
  const known = list(status.engines);
  showTotal(status.coordinator, known);
  showNotice(known);
  showEngines(known, status.coordinator.time);
  byId('main').hidden = false;
}

function setLink(state, text) {
  const link = byId('link');
  link.dataset.state = state;
  if (link.textContent !== text) link.textContent = text;
  byId('main').toggleAttribute('data-stale', state === 'lost');
}

function askForKey(refused) {
  byId('key_note').textContent = refused ? 'That key is not accepted.' : 'This coordinator asks for an API key.';
  byId('main').hidden = true;
  byId('key_form').hidden = false;
  byId('key').focus();
  setLink('lost', 'API key needed');
}

async function read() {
  const key = sessionStorage.getItem(kKeyName);
  const response = await fetch('status', {
    cache: 'no-store',
    headers: key ? {Authorization: `Bearer ${key}`} : {},
    signal: AbortSignal.timeout(kTimeoutMs),
  });
  if (response.status === 401 || response.status === 403) {
    sessionStorage.removeItem(kKeyName);
    askForKey(key !== null);
    return false;
  }
  if (!response.ok) throw new Error(`HTTP ${response.status}`);
  show(await response.json());
  setLink('live', 'live');
  return true;
}

let failures = 0, timer = 0, answered = Date.now(), reading = false;

async function poll() {
  if (reading) return;
  reading = true;
  clearTimeout(timer);
  let wait = kPeriodMs;
  try {
    if (!await read()) return;  // the form goes on from here
    failures = 0;
    answered = Date.now();
  } catch (error) {
    wait = Math.min(kPeriodMs * 2 ** failures++, kLongestWaitMs);
    setLink('lost', `connection lost · no answer for ${timeText((Date.now() - answered) / 1000)}`);
  } finally {
    reading = false;
  }
  timer = setTimeout(poll, wait);
}

byId('key_form').addEventListener('submit', (event) => {
  event.preventDefault();
  sessionStorage.setItem(kKeyName, byId('key').value);
  byId('key').value = '';
  byId('key_form').hidden = true;
  setLink('live', 'connecting');
  poll();
});
document.addEventListener('visibilitychange', () => { if (!document.hidden && byId('key_form').hidden) poll(); });
for (const cell of document.querySelectorAll('[data-hue]')) cell.style.setProperty('--h', cell.dataset.hue);
poll();
