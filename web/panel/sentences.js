// Sentences of the server in Chinese. In what is said, $1 is a part as it is, @1 a part that is said in turn.

export const SENTENCES = [
  // The report's first sentences and its verdict.
  [
    /^([\d,]+) of ([\d,]+) images are unlike those that the probe for (.+?) was made for( \(.*?\))?: they are not counted, and it may be the wrong probe\. (.*)$/,
    "$2 张图片中有 $1 张不同于“$3”探针所适用的图片$4：它们不计入，这个探针可能选错了。@5",
  ],
  [
    /^Prompt by prompt, (.+) is (\S+ \(\S+\)) from the target \(FD(; a fair model shows up to \S+)?\)(.*?)\. Worst is “(.*)”: (.+) (\S+)\. Over all prompts: (.*)$/,
    "逐提示词来看，$1 与目标的距离为 $2（FD@3）@4。最差的是“$5”：$6 $7。全部提示词：@8",
  ],
  [
    /^Prompt by prompt, (.+) is (\S+) from the target (.+), (\S+ \(\S+\)) (.+) \(FD(; a fair model shows up to \S+)?\)(.*?)\. Worst is “(.*)”: (.+) (\S+)\. Over all prompts: (.*)$/,
    "逐提示词来看，$1 与目标的距离：@3为 $2，@5为 $4（FD@6）@7。最差的是“$8”：$9 $10。全部提示词：@11",
  ],
  [/^(\S.*?) (?:are|is) (\S+ \(\S+\)) of ([\d,]+) images(|, .*)\.$/, "@1在 $3 张图片中占 $2@4。"],
  [
    /^(\S.*?),? (“[^”]*”|\S+) (?:are|is) (\S+) of ([\d,]+) images; (.+?),? (?:they|it) (?:are|is) (\S+ \(\S+\))(|, .*)\.$/,
    "@1@2在 $4 张图片中占 $3；@5占 $6@7。",
  ],
  [/^In none of ([\d,]+) images could the probe tell (.+)\.$/, "$1 张图片中，探针没有一张能判断 $2。"],
  [/^One image is too few to say anything about (.+)\.$/, "一张图片太少，无法判断 $1。"],
  [/^[Aa]t (α = .+)$/, "$1 时"],
  [/^[Bb]efore$/, "之前"],
  [/^[Aa]fter$/, "之后"],
  [/^[Mm]en$/, "男性"],
  [/^[Ww]omen$/, "女性"],
  [/^; a fair model shows up to (\S+)$/, "；公平的模型不超过 $1"],
  [/^, too few images for a verdict$/, "，图片太少，无法下结论"],
  [/^, and more images are needed to call it fair or not$/, "，还需要更多图片才能判断是否公平"],
  [/^, which is not fair$/, "，这不公平"],
  [/^, which is not fair yet$/, "，仍不公平"],
  [/^(, )?fair within ±(\S+)$/, "在 ±$2 之内公平"],
  [/^not fair$/, "不公平"],
  [/^cannot tell$/, "无法判断"],
  [/^too few to say$/, "太少，无法判断"],
  [/^no target$/, "没有目标"],
  [/^too few to say: (?:one image|([\d,]+) images), and a verdict needs (\d+)$/, "太少，无法判断：结论需要 $2 张图片"],
  // What else there is to know of a report.
  [
    /^Of (\d+) prompts on their own, (\d+) are (.+), (\d+) are not fair, and for (\d+) these images cannot tell\.$/,
    "$1 条提示词分开来看：$2 条@3，$4 条不公平，$5 条凭这些图片无法判断。",
  ],
  [
    /^In (\S+) of the images (.+) is undetermined(?: \((\d+) of them are unlike those that its probe was made for\))?; they are shown, not counted\.$/,
    "$1 的图片中 $2 未定：它们会显示，但不计入。",
  ],
  [/^Corrected for what its probe gets wrong, (.+) is: (.*)\.$/, "校正探针的错误之后，$1 为：$2。"],
  [
    /^The probe for (.+?) was made for images of the model that it is made from, which recognises (\S+) of its own by their words\.$/,
    "“$1”探针适用于制作它的模型所生成的图片；该模型能按词语认出自己图片的 $2。",
  ],
  [/^The probe for (.+?) was made for (.*)\.$/, "“$1”探针适用于：$2。"],
  [
    /^How often the probe for (.+) is right is not known until you check it on some images\.$/,
    "在您用一些图片检查之前，不知道“$1”探针有多准确。",
  ],
  [/^The probe for (.+) is right in only (\S+); read its shares with care\.$/, "“$1”探针的正确率只有 $2：请谨慎看待它的份额。"],
  [/^The subject is recognised in (\S+) of the images\.$/, "$1 的图片能认出主题。"],
  [/^The subject is recognised in (\S+) of the images, before in (\S+)\.$/, "$1 的图片能认出主题，之前为 $2。"],
  [/^Undetermined, because they show nothing \(.*\): (.*)\.$/, "未定，因为图中什么也没有（只有一种颜色，或像素不是有限的数）：$1。"],
  [/^Undetermined, because they are nearly the same as another: (.*)\.$/, "未定，因为与另一张几乎相同：$1。"],
  [
    /^(\d+) of (\d+) images have pixels that are not finite\. (.*)$/,
    "$2 张图片中有 $1 张的像素不是有限的数，不计入。半精度的 VAE 会这样：请让 ComfyUI 以 float32 运行它。",
  ],
  [/^As the graph says: (.*)\.$/, "工作流说明：$1。"],
  [/^Cancelled: these are the images until then\. Queue again to go on\.$/, "已取消：这些是到那时为止的图片。再次排队即可继续。"],
  // Strengths to recommend.
  [/^No α can be recommended without a target\.$/, "没有目标，无法推荐 α。"],
  [
    /^No α can be recommended: that takes images at α = 0 and at another strength\.$/,
    "无法推荐 α：需要 α = 0 和另一个强度的图片。",
  ],
  [
    /^No α is recommended: these are too few images, (\d+) of each prompt and strength are needed\.$/,
    "不推荐 α：图片太少，每条提示词和每个强度需要 $1 张。",
  ],
  [
    /^No α is recommended: in most images at one of the strengths (.+) is undetermined\.$/,
    "不推荐 α：在其中一个强度下，大多数图片的 $1 未定。",
  ],
  [
    /^Recommended α: (\S+); there FD by prompt is (\S+), at α = 0 it is (\S+)\.$/,
    "推荐 α：$1；此时逐提示词 FD 为 $2，α = 0 时为 $3。",
  ],
  [
    /^Recommended α: 0; without an adapter every prompt is as near to the target as can be told\.$/,
    "推荐 α：0；不用适配器时，每条提示词已经尽可能接近目标。",
  ],
  [
    /^Recommended α: 0; no strength brings the prompts nearer to the target by more than chance\.$/,
    "推荐 α：0；没有哪个强度让提示词更接近目标，超出偶然。",
  ],
  // Checking a probe.
  [/^The rest is right$/, "其余都对"],
  [/^The probe for (.+) was checked by eye on (\d+) images: (.*)\.$/, "“$1”探针已由人眼在 $2 张图片上检查：$3。"],
  [/^(\d+) more show none of its classes\.$/, "另有 $1 张不属于它的任何类别。"],
  [/^Shares are corrected when (\d+) images of each class are answered\.$/, "每个类别回答 $1 张图片之后，份额即得到校正。"],
  [/^(.+): (\d+) of (\d+) right$/, "$1：$3 张中对 $2 张"],
  [/^Answer (\d+) of each class\.$/, "每个类别请回答 $1 张。"],
  [/^Queue again: the report is corrected by it\.$/, "再次排队：报告将据此校正。"],
  [
    /^Whom do you see\? The probe's guess for (.+) is marked: confirm it, or choose another\.$/,
    "您看到的是谁？探针对 $1 的猜测已标出：请确认，或另选一个。",
  ],
  // Guidance and trainings.
  [/^The prompt says “(.*)” itself: the image is left as it is\.$/, "提示词自己说了“$1”：图片保持原样。"],
  [
    /^(\S+) GB of memory are free, and a training of (.+) needs about (\S+) GB: it goes on in the background, and the queue is free\.$/,
    "空闲内存 $1 GB，训练 $2 约需 $3 GB：它在后台进行，队列可用。",
  ],
  [/^The stopped run goes on with other steps \((\d+), now (\d+)\)\.$/, "停止的训练以新的步数继续（原为 $1，现为 $2）。"],
  [/^Stopped while measuring\. The adapter is finished; start again with the same inputs to measure it\.$/, "测量时停止。适配器已完成；用相同的输入再次开始即可测量。"],
  [
    /^(.+) is in models\/ddm, for DDM Distribution Guidance\. It tells (.+) apart: right in (\S+) of images that it had not seen, at the noise where it sees best\.(.*)$/,
    "$1 在 models/ddm 中，供“DDM 分布引导”使用。它区分 $2：在最清楚的噪声水平上，未见过的图片有 $3 正确。@4",
  ],
  [
    /^ That is little better than guessing: give it more images of each prompt, or a probe\.$/,
    "这与猜测相差无几：请给每条提示词更多图片，或使用探针。",
  ],
];
