// What is watched: a feed for each stream, and how its pictures are made visible.

import { JpegPlayer } from "./jpeg.js";
import { MsePlayer } from "./mse.js";
import { Transit } from "./wire.js";
import { WebCodecsPlayer } from "./webcodecs.js";

// A player shows the pictures of one stream in its `element`:
//   push(message)  takes one; tells its host `done(message)` once, when it is dealt with, `drawn(message, width,
//                  height)` when it can be seen, and `fail(why)` when it can go on no more
//   stop()         no more of them; the last picture can still be seen
//   release()      and now it need not be
const PLAYERS = { webcodecs: WebCodecsPlayer, mse: MsePlayer, jpeg: JpegPlayer };
const STEPS = { jpeg: ["jpeg"], h264: ["webcodecs", "mse", "jpeg"], h265: ["webcodecs", "jpeg"] };
const ORDER = Object.keys(PLAYERS);

const MUTE_MS = 4000; // so long, and for so many packets, a decoder may give no picture
const MUTE_PACKETS = 20;
const REMEMBER_MS = 5 * 60_000; // how long a stream keeps to the step that it fell back to
const MOST_STREAMS = 256;

/** The first step of a codec that this browser can take, at or after `from`: in any case "jpeg". */
function stepFor(codec, from = "webcodecs") {
    const steps = (STEPS[codec] ?? []).filter((step) => PLAYERS[step].canPlay?.() ?? true);
    return ORDER.slice(ORDER.indexOf(from)).find((step) => steps.includes(step)) ?? "jpeg";
}

/** One stream of one camera. `screen` gets `show(player, info)` for each picture. */
class Feed {
    player = null;
    #transit = new Transit();
    #pushed = 0; // packets since the last picture
    #quietMs = null;

    constructor(feeds, { camera, channel, screen }) {
        this.feeds = feeds;
        this.camera = camera;
        this.channel = channel;
        this.screen = screen;
        this.title = `${camera} (${channel})`;
        this.id = feeds.newId();
        this.asks = feeds.stepOf(this, "h264") === "jpeg" ? "jpeg" : "any";
    }

    /** What is asked of the gateway. */
    get request() {
        return { id: this.id, camera: this.camera, channel: this.channel, as: this.asks };
    }

    take(message) {
        message.age = this.#transit.ageOf(message);
        const step = this.feeds.stepOf(this, message.codec);
        this.codec = message.codec;
        if (message.codec !== "jpeg" && step === "jpeg") {
            this.done(message);
            if (this.asks !== "jpeg") {
                this.fail(`there is no decoder of ${message.codec}`);
            }
            return;
        }
        if (this.player?.name !== step) {
            this.player?.stop();
            this.player = new PLAYERS[step](this);
            this.#pushed = 0;
        }
        this.#pushed += 1;
        if (step !== "jpeg" && this.#pushed > MUTE_PACKETS && this.#isMute(message.receivedMs)) {
            this.done(message);
            this.fail(`no picture came out of it for ${MUTE_MS / 1000} s`);
            return;
        }
        this.player.push(message);
    }

    /** Packets go into the decoder, and nothing comes out. */
    #isMute(nowMs) {
        this.#quietMs ??= nowMs;
        return nowMs - this.#quietMs > MUTE_MS;
    }

    done(message) {
        this.feeds.link.done(message);
    }

    drawn(message, width, height) {
        const nowMs = performance.now();
        const onTheWay = nowMs - message.receivedMs;
        this.#pushed = 0;
        this.#quietMs = null;
        this.screen.show(this.player, {
            nowMs, width, height,
            channel: this.channel,
            ageMs: message.age === null ? null : message.age + onTheWay,
            codec: message.codec,
            lost: message.lost,
        });
    }

    /** One step back: from WebCodecs to Media Source, from there to JPEG made by the gateway. */
    fail(why) {
        const from = this.player?.name ?? this.feeds.forced ?? ORDER[0];
        const to = this.player === null ? "jpeg" : stepFor(this.codec, ORDER[ORDER.indexOf(from) + 1]);
        console.warn(`camfabric: ${this.title}: ${from} failed: ${why}; going on with ${to}`);
        this.feeds.fallBack(this, to);
    }

    close() {
        this.player?.stop();
    }
}

/** All feeds. `want` says which are to be. */
export class Feeds {
    #feeds = new Map();
    #byId = new Map();
    #fallen = new Map();
    #lastId = -1;

    /** `forced`: "webcodecs", "mse" or "jpeg" is the first step, instead of the best one. */
    constructor(link, forced) {
        this.link = link;
        this.forced = forced;
        link.addEventListener("picture", ({ detail }) => {
            const feed = this.#byId.get(detail.id);
            if (feed === undefined) {
                link.done(detail); // of a stream that is not wanted any more
            } else {
                feed.take(detail);
            }
        });
        link.addEventListener("open", () => this.restart());
    }

    /** [{camera, channel, screen}]: the streams to be watched from now on. */
    want(streams) {
        const wanted = new Map(streams.slice(0, MOST_STREAMS).map((each) => [`${each.channel}/${each.camera}`, each]));
        for (const [key, feed] of this.#feeds) {
            if (!wanted.has(key)) {
                this.#close(key, feed);
            }
        }
        for (const [key, each] of wanted) {
            if (!this.#feeds.has(key)) {
                this.#open(key, each);
            }
        }
        this.#ask();
    }

    has(camera, channel) {
        return this.#feeds.has(`${channel}/${camera}`);
    }

    /** Begin all anew: decoders know nothing of another connection's packets. */
    restart() {
        for (const [key, feed] of [...this.#feeds]) {
            this.#close(key, feed);
            this.#open(key, feed);
        }
        this.#ask();
    }

    stepOf(feed, codec) {
        const fallen = this.#fallen.get(feed.title);
        const isRecent = fallen !== undefined && performance.now() - fallen.atMs < REMEMBER_MS;
        return stepFor(codec, isRecent ? fallen.to : this.forced);
    }

    fallBack(feed, to) {
        this.#fallen.set(feed.title, { to, atMs: performance.now() });
        const key = `${feed.channel}/${feed.camera}`;
        if (this.#feeds.get(key) === feed) {
            this.#close(key, feed);
            this.#open(key, feed);
            this.#ask();
        }
    }

    newId() {
        do {
            this.#lastId = (this.#lastId + 1) % 0x10000;
        } while (this.#byId.has(this.#lastId));
        return this.#lastId;
    }

    #open(key, wanted) {
        const feed = new Feed(this, wanted);
        this.#feeds.set(key, feed);
        this.#byId.set(feed.id, feed);
    }

    #close(key, feed) {
        feed.close();
        this.#feeds.delete(key);
        this.#byId.delete(feed.id);
    }

    #ask() {
        this.link.watch([...this.#feeds.values()].map((feed) => feed.request));
    }
}
