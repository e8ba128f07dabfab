// What panels say, in the language of the page: English is written where it is said, others are here.

import { app } from "../../../scripts/app.js";
import { SENTENCES } from "./sentences.js";

const ZH = {
  "This LoRA has no fairness card: nobody has said what its strengths do.": "这个 LoRA 没有公平卡片：没有人说明它的各个强度有什么效果。",
  measured: "实测",
  predicted: "预测",
  Groups: "分组",
  Target: "目标",
  "Trained on": "训练数据",
  Strengths: "强度",
  Measured: "测量",
  "Worst prompt": "最差的提示词",
  "Base model": "基础模型",
  "no labels: what is out of balance in the images": "无标签：图片中失衡之处",
  "no labels: the model's own list of words": "无标签：模型自己的词表",
  "balance of whatever stands out": "平衡所有突出之处",
  "not yet: DDM Alpha Sweep does it": "尚未：用“DDM α 扫描”测量",
  "Share, all prompts": "份额（全部提示词）",
  "FD by prompt": "逐提示词 FD",
  " FD by prompt": " 逐提示词 FD",
  "FD by prompt: further left is fairer": "逐提示词 FD：越靠左越公平",
  "Images that carry the weight": "承担权重的图片",
  Before: "之前",
  After: "之后",
  Share: "份额",
  "95% interval": "95% 区间",
  Prompts: "提示词",
  Prompt: "提示词",
  Images: "图片",
  Quality: "质量",
  target: "目标",
  before: "之前",
  "a fair model": "公平的模型",
  "Stop and keep what was trained": "停止并保留已训练的",
  "Starting the trainer": "正在启动训练器",
  "Encoding images": "正在编码图片",
  "Making the base's own images": "正在生成模型自己的图片",
  "Finding groups": "正在寻找分组",
  "Looking at what the base makes": "正在查看模型画什么",
  "Looking at each prompt": "正在逐条查看提示词",
  Training: "训练中",
  "Calibrating α": "正在校准 α",
  "Making images to measure": "正在生成要测量的图片",
  "Looking at the images": "正在查看图片",
  Generating: "正在生成",
  Done: "完成",
  Stopped: "已停止",
  Step: "步",
  Loss: "损失",
  Right: "正确率",
  "Noise: 0 is the finished image, 1000 pure noise": "噪声：0 是完成的图片，1000 是纯噪声",
  "What is in the folder": "文件夹里有什么",
  "As a table": "以表格显示",
  "Open full report": "打开完整报告",
  "Save JSON": "保存 JSON",
  "Whom the model draws appears here, prompt by prompt.": "模型画的是谁，将在这里逐条显示。",
  "The report appears here when the graph has run.": "运行之后，报告显示在这里。",
  "Before and after appear here when the graph has run.": "运行之后，前后对比显示在这里。",
  "The shares at every α appear here when the sweep has run.": "扫描之后，各个 α 的份额显示在这里。",
  "What is common in the folder, and what is rare, appears here when the graph has run.":
    "运行之后，文件夹里什么常见、什么少见，显示在这里。",
  "Reading the card …": "正在读取卡片……",
  "Reading the cards …": "正在读取卡片……",
  "The images so far appear here, prompt by prompt, beside the target.": "到目前为止的图片将在这里逐条显示，旁边是目标。",
  "Reset the counts": "计数清零",
  "Progress and previews appear here while it trains. Cancel keeps what was trained.":
    "训练时，进度和预览显示在这里。取消会保留已训练的内容。",
  Reload: "重新读取",
  "Fair adapters": "公平适配器",
  "None of your LoRA files carries a fairness card yet. Train one with ": "您的 LoRA 文件都还没有公平卡片。请用以下命令训练一个：",
  " and put it into models/loras.": "，并放入 models/loras。",
  "Add to graph": "加入工作流",
  "Write the points as position:α pairs, such as 0:1, .4:.5, 1:0.": "请把点写成“位置:α”对，例如 0:1, .4:.5, 1:0。",
  "Positions run from 0, pure noise, to 1, the finished image.": "位置从 0（纯噪声）到 1（完成的图片）。",
  "Sampling: 0 is pure noise, 1 the finished image": "采样：0 是纯噪声，1 是完成的图片",
  "The head was made for this model.": "判别头是为这个模型制作的。",
  "Trained on this base.": "在这个模型上训练。",
  "The head was made for another model, or for one that is not known here: look at a report before you rely on it, or make one with DDM Train Guidance Head.":
    "判别头是为另一个或未知的模型制作的：依赖它之前请先看报告，或用“DDM 训练引导判别头”另做一个。",
  "Stopped. What was trained is kept: start it again to go on, with more steps if you like.":
    "已停止。已训练的内容已保留：再次开始即可继续，也可以增加步数。",
  "Stopped before any training.": "在训练之前已停止。",
};

const PATTERNS = [
  [/^recommended α (\S+)$/, "推荐 α $1"],
  [/^recommended (\S+)$/, "推荐 $1"],
  [/^Use (\S+)$/, "使用 $1"],
  [/^(\d+) images?$/, "$1 张图片"],
  [/^(\d+) images of (\d+) prompts$/, "$2 条提示词的 $1 张图片"],
  [/^(\d+) images, (\d+) concepts$/, "$1 张图片，$2 个概念"],
  [/^0 to (\S+)$/, "0 到 $1"],
  [/^(\d[\d hmins]*) left$/, "还需 $1"],
  [/^step (\d+) of (\d+)$/, "第 $1 步，共 $2 步"],
  [/^ ?([\d–]*) of (\d+)$/, " $1 / $2"],
  [/^Worst: “(.*)”, (.+) (\S+)$/, "最差：“$1”，$2 $3"],
  [/^(\d+) undetermined$/, "$1 张未定"],
  [/^ · (\d+) undetermined$/, " · $1 张未定"],
  [/^ · (.*; )?a fair model up to (\S+)$/, " · $1公平的模型不超过 $2"],
  [/^Prompt by prompt \((\d+)\)$/, "逐提示词（$1）"],
  [/^What else to know \((\d+)\)$/, "其他说明（$1）"],
  [/^Not asked to change: (.*)$/, "不要求改变：$1"],
  [/^In the folder \((.*)\)$/, "文件夹中（$1）"],
  [/^Step\. At α = 1, (\S+) of the images carry the weight\.$/, "步。α = 1 时，$1 的图片承担权重。"],
  [/^The same seeds without the adapter and with it, at step (\d+)$/, "相同的种子，不用和使用适配器，第 $1 步"],
  [/^Choose α between (\S+) and (\S+)\.$/, "请选择 $1 到 $2 之间的 α。"],
  [/^Target: (.*)\.$/, "目标：$1。"],
  [/^(.+) is among your LoRAs\. Recommended α: (\S+)\.$/, "$1 已在您的 LoRA 中。推荐 α：$2。"],
  [/^too few to say: (\d+) images of (\d+) prompts, and a verdict needs (\d+) of each$/, "太少，无法判断：$2 条提示词共 $1 张图片，结论需要每条 $3 张"],
];

/** A text in the language of the page; one that has no translation as it is. */
export function say(text) {
  if (!String(app.extensionManager?.setting?.get("Comfy.Locale") ?? "").startsWith("zh")) return text;
  if (Object.hasOwn(ZH, text)) return ZH[text];
  for (const [pattern, said] of [...PATTERNS, ...SENTENCES]) {
    const found = text.match(pattern);
    if (found) return said.replace(/([$@])(\d+)/g, (_, kind, n) => (kind === "@" ? say : String)(found[n] ?? ""));
  }
  return text;
}
