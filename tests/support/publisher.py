"""Publishes real WebRTC media from outside any browser: the wall clock as eight times eight gray cells, as clock.html shows it,
25 times a second; a quiet tone; and a beep at each full second, whose pitch names it as there. Serves the page that receives it at /, with host candidates only.

Prints its port when it listens."""

import asyncio
import fractions
import json
import math
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from aiortc import MediaStreamTrack, RTCPeerConnection, RTCSessionDescription
from av import AudioFrame, VideoFrame

PAGE = b"""<!doctype html><title>WebRTC</title>
<style>html, body { margin: 0; background: #000 } video { position: fixed; inset: 0; width: 100%; height: 100%; object-fit: fill }</style>
<video autoplay playsinline></video>
<script type="module">
const peer = new RTCPeerConnection();
const stream = new MediaStream();
document.querySelector("video").srcObject = stream;
peer.ontrack = ({ track }) => stream.addTrack(track);
for (const kind of ["video", "audio"]) peer.addTransceiver(kind, { direction: "recvonly" });
await peer.setLocalDescription();
while (peer.iceGatheringState !== "complete") await new Promise((done) => (peer.onicegatheringstatechange = done));
const answer = await fetch("/offer", { method: "POST", body: JSON.stringify(peer.localDescription) });
await peer.setRemoteDescription(await answer.json());
</script>"""

RATE, FRAMES = 48_000, 25
WIDTH, HEIGHT = 320, 192


def checksum(data):
    crc = 0xFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x07) & 0xFF if crc & 0x80 else crc << 1
    return crc


class Clock(MediaStreamTrack):
    kind = "video"

    async def recv(self):
        await asyncio.sleep(0)
        number = math.floor(time.time() * FRAMES) + 1
        await asyncio.sleep(number / FRAMES - time.time())
        stamp = (number * 1000 // FRAMES).to_bytes(6, "big")
        bits = "".join(f"{byte:08b}" for byte in stamp + bytes([checksum(stamp)])) + "0" * 8
        frame = VideoFrame(WIDTH, HEIGHT, "yuv420p")
        luma, *chroma = frame.planes
        rows = []
        for top in range(0, 64, 8):
            row = b"".join(bytes([235 if bit == "1" else 16]) * (WIDTH // 8) for bit in bits[top : top + 8])
            rows.append(row.ljust(luma.line_size, b"\x10") * (HEIGHT // 8))
        luma.update(b"".join(rows))
        for plane in chroma:
            plane.update(b"\x80" * plane.buffer_size)
        frame.pts, frame.time_base = number * (90_000 // FRAMES), fractions.Fraction(1, 90_000)
        return frame


def second_of_sound(digit):
    samples, pitch = [], 600 + 100 * digit
    for at in range(RATE):
        beep = 16_000 * math.sin(2 * math.pi * pitch * at / RATE) if at < RATE // 10 else 0
        samples.append(round(beep + 2_000 * math.sin(2 * math.pi * 300 * at / RATE)))
    return struct.pack(f"<{RATE}h", *samples)


class Sound(MediaStreamTrack):
    kind = "audio"
    seconds = [second_of_sound(digit) for digit in range(10)]
    number = 0

    async def recv(self):
        self.number = self.number or math.floor(time.time() * 50)
        self.number += 1
        await asyncio.sleep(max(0, self.number / 50 - time.time()))
        frame = AudioFrame(format="s16", layout="mono", samples=RATE // 50)
        begin = self.number % 50 * RATE // 50 * 2
        second = self.seconds[self.number // 50 % 10]
        frame.planes[0].update(second[begin : begin + RATE // 50 * 2])
        frame.pts, frame.sample_rate, frame.time_base = self.number * RATE // 50, RATE, fractions.Fraction(1, RATE)
        return frame


peers = set()


async def answer(offer):
    peer = RTCPeerConnection()
    peers.add(peer)
    await peer.setRemoteDescription(RTCSessionDescription(**offer))
    peer.addTrack(Clock())
    peer.addTrack(Sound())
    await peer.setLocalDescription(await peer.createAnswer())
    return {"sdp": peer.localDescription.sdp, "type": peer.localDescription.type}


loop = asyncio.new_event_loop()


class Door(BaseHTTPRequestHandler):
    def reply(self, kind, body):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.reply("text/html", PAGE)

    def do_POST(self):
        offer = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        said = asyncio.run_coroutine_threadsafe(answer(offer), loop).result(20)
        self.reply("application/json", json.dumps(said).encode())

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Door)
threading.Thread(target=server.serve_forever, daemon=True).start()
print(server.server_port, flush=True)
# Whoever started this holds the other end.
threading.Thread(target=lambda: (sys.stdin.read(), loop.call_soon_threadsafe(loop.stop)), daemon=True).start()
loop.run_forever()
