
(function(){
"use strict";
var seconds=+document.querySelector("meta[name=refresh-seconds]").content||5;
var since=null,failed=false;
function take(doc){var age=doc.querySelector("meta[name=age]").content;since=age===""?null:Date.now()-1000*age;}
function show(){
var to=document.getElementById("age");
if(!to)return;
var text=since===null?"":"("+Math.max(0,Math.round((Date.now()-since)/1000))+" s ago)";
if(failed)text+=" \u2013 the exporter does not answer";
if(to.textContent!==text)to.textContent=text;
}
function put(from,to){
if(from.isEqualNode(to))return;
if(from.nodeType!==1||to.nodeName!==from.nodeName||to.children.length!==from.children.length||from.children.length===0||from.childNodes.length!==to.childNodes.length){
to.replaceWith(document.importNode(from,true));return;}
for(var i=0;i<from.attributes.length;i++){var a=from.attributes[i];if(to.getAttribute(a.name)!==a.value)to.setAttribute(a.name,a.value);}
["class","points"].forEach(function(name){if(!from.hasAttribute(name)&&to.hasAttribute(name))to.removeAttribute(name);});
var pairs=[];
for(i=0;i<from.childNodes.length;i++)pairs.push([from.childNodes[i],to.childNodes[i]]);
pairs.forEach(function(pair){if(pair[0].nodeType===3&&pair[1].nodeType===3){if(pair[0].data!==pair[1].data)pair[1].data=pair[0].data;}else put(pair[0],pair[1]);});
}
function refresh(){
if(document.hidden){setTimeout(refresh,1000*seconds);return;}
fetch(location.pathname,{cache:"no-store",headers:{Accept:"text/html"}}).then(function(answer){
if(!answer.ok)throw new Error(answer.status);
return answer.text();
}).then(function(text){
var doc=new DOMParser().parseFromString(text,"text/html");
take(doc);failed=false;
["state","data","main"].forEach(function(id){
var from=doc.getElementById(id),to=document.getElementById(id);
if(from&&to)put(from,to);
});
}).catch(function(){failed=true;}).then(function(){show();setTimeout(refresh,1000*seconds);});
}
take(document);show();
setInterval(show,1000);
setTimeout(refresh,1000*seconds);
})();
